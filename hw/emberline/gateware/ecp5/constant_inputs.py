"""Constants that a mapped ECP5 netlist can do without.

nextpnr drops constants at LUTs, at carry chains and where a block's input can be tied. Elsewhere it leads them there
from one LUT each, over the whole die: thousands of wires, which the router leaves for last and mostly spends its time
on.
"""

from __future__ import annotations

MAP = """\
// An address bit that is 0 in all reads and writes may be anything, as long as it is the same in both, if every place
// that it leads to holds at first what is found with 0. So it repeats the bit below, which is a wire that is there.
(* techmap_celltype = "TRELLIS_DPR16X4" *)
module constant_address (DI, WAD, WRE, WCK, RAD, DO);
    parameter WCKMUX = "WCK";
    parameter WREMUX = "WRE";
    parameter [63:0] INITVAL = 64'h0;
    parameter [3:0] _TECHMAP_CONSTMSK_RAD_ = 0;
    parameter [3:0] _TECHMAP_CONSTVAL_RAD_ = 0;
    parameter [3:0] _TECHMAP_CONSTMSK_WAD_ = 0;
    parameter [3:0] _TECHMAP_CONSTVAL_WAD_ = 0;
    input [3:0] DI, WAD, RAD;
    input WRE, WCK;
    output [3:0] DO;

    localparam [3:0] ZERO = _TECHMAP_CONSTMSK_RAD_ & ~_TECHMAP_CONSTVAL_RAD_
        & _TECHMAP_CONSTMSK_WAD_ & ~_TECHMAP_CONSTVAL_WAD_;
    wire _TECHMAP_FAIL_ = ZERO == 0 || ZERO[0];
    wire [3:0] write, read;
    genvar bit, place;
    generate
        for (bit = 0; bit < 4; bit = bit + 1) begin
            if (ZERO[bit]) begin
                assign write[bit] = write[bit - 1];
                assign read[bit] = read[bit - 1];
            end else begin
                assign write[bit] = WAD[bit];
                assign read[bit] = RAD[bit];
            end
        end
    endgenerate
    function [63:0] repeated(input [63:0] values);
        integer address;
        for (address = 0; address < 16; address = address + 1)
            repeated[4 * address +: 4] = values[4 * (address & ~ZERO) +: 4];
    endfunction
    TRELLIS_DPR16X4 #(.WCKMUX(WCKMUX), .WREMUX(WREMUX), .INITVAL(repeated(INITVAL))) _TECHMAP_REPLACE_ (
        .DI(DI), .WAD(write), .WRE(WRE), .WCK(WCK), .RAD(read), .DO(DO)
    );
endmodule

// A carry that goes into a chain takes a cell before it, with the carry for an operand. A constant one's cell needs no
// operands: it never propagates, and generates a carry or none.
(* techmap_celltype = "CCU2C" *)
module constant_carry (CIN, A0, B0, C0, D0, A1, B1, C1, D1, S0, S1, COUT);
    parameter [15:0] INIT0 = 16'h0000;
    parameter [15:0] INIT1 = 16'h0000;
    parameter INJECT1_0 = "YES";
    parameter INJECT1_1 = "YES";
    parameter _TECHMAP_CONSTMSK_CIN_ = 1'b0;
    parameter _TECHMAP_CONSTVAL_CIN_ = 1'b0;
    input CIN, A0, B0, C0, D0, A1, B1, C1, D1;
    output S0, S1, COUT;

    wire _TECHMAP_FAIL_ = !_TECHMAP_CONSTMSK_CIN_ || _TECHMAP_CONSTVAL_CIN_ === 1'bx;
    wire carry;
    CCU2C #(
        .INIT0(16'h0000), .INIT1(_TECHMAP_CONSTVAL_CIN_ ? 16'h000F : 16'h0000), .INJECT1_0("NO"), .INJECT1_1("NO")
    ) first (
        .CIN(1'bx), .A0(1'b1), .B0(1'b1), .C0(1'b1), .D0(1'b1), .A1(1'b1), .B1(1'b1), .C1(1'b1), .D1(1'b1),
        .COUT(carry)
    );
    CCU2C #(.INIT0(INIT0), .INIT1(INIT1), .INJECT1_0(INJECT1_0), .INJECT1_1(INJECT1_1)) _TECHMAP_REPLACE_ (
        .CIN(carry), .A0(A0), .B0(B0), .C0(C0), .D0(D0), .A1(A1), .B1(B1), .C1(C1), .D1(D1),
        .S0(S0), .S1(S1), .COUT(COUT)
    );
endmodule
"""
"""A map for yosys' ``techmap`` behind ``synth_ecp5``, in Verilog."""
