// Behaviour of primitives that yosys knows only as black boxes, as far as the gateware uses them, written after their
// data sheets: which registers exist and which factors are signed is decided by parameters and pins, as in the device.

// Lattice TN1267, ECP5 sysDSP Usage Guide. The shift inputs and the resets are not modelled.
module MULT18X18D(
    input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17,
    input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17,
    input C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
    output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17,
    output P18, P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35
);
    parameter REG_INPUTA_CLK = "NONE";
    parameter REG_INPUTB_CLK = "NONE";
    parameter REG_PIPELINE_CLK = "NONE";
    parameter REG_OUTPUT_CLK = "NONE";
    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg [17:0] a_register, b_register;
    reg [35:0] pipeline_register, output_register;
    wire [17:0] a_used = REG_INPUTA_CLK == "CLK0" ? a_register : a;
    wire [17:0] b_used = REG_INPUTB_CLK == "CLK0" ? b_register : b;
    wire [35:0] multiplied = {{18{SIGNEDA & a_used[17]}}, a_used} * {{18{SIGNEDB & b_used[17]}}, b_used};
    wire [35:0] pipelined = REG_PIPELINE_CLK == "CLK0" ? pipeline_register : multiplied;
    always @(posedge CLK0) if (CE0) begin
        a_register <= a;
        b_register <= b;
        pipeline_register <= multiplied;
        output_register <= pipelined;
    end
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
            P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0}
        = REG_OUTPUT_CLK == "CLK0" ? output_register : pipelined;
endmodule

// Gowin UG287, Gowin DSP User Guide. The shift inputs and the reset are not modelled.
module MULT9X9(
    input [8:0] A, B, SIA, SIB,
    input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET,
    output [17:0] DOUT
);
    parameter AREG = 1'b0;
    parameter BREG = 1'b0;
    parameter PIPE_REG = 1'b0;
    parameter OUT_REG = 1'b0;
    parameter ASIGN_REG = 1'b0;
    parameter BSIGN_REG = 1'b0;
    parameter SOA_REG = 1'b0;
    parameter MULT_RESET_MODE = "SYNC";
    reg [8:0] a_register, b_register;
    reg [17:0] pipeline_register, output_register;
    wire [8:0] a_used = AREG ? a_register : A;
    wire [8:0] b_used = BREG ? b_register : B;
    wire [17:0] multiplied = {{9{ASIGN & a_used[8]}}, a_used} * {{9{BSIGN & b_used[8]}}, b_used};
    wire [17:0] pipelined = PIPE_REG ? pipeline_register : multiplied;
    always @(posedge CLK) if (CE) begin
        a_register <= A;
        b_register <= B;
        pipeline_register <= multiplied;
        output_register <= pipelined;
    end
    assign DOUT = OUT_REG ? output_register : pipelined;
endmodule
