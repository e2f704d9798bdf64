"""A mapped netlist without constants that would be wires: equal to the one with them, and nothing else is touched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthesis import run_yosys, vendor_model

from emberline.gateware.ecp5.constant_inputs import MAP

MEMORY = """\
module {name} (input clk, input [3:0] write, read, input [3:0] d, input we, output [3:0] q);
    TRELLIS_DPR16X4 #(.WCKMUX("WCK"), .WREMUX("WRE"), .INITVAL(64'h0123456789abcdef)) memory (
        .DI(d), .WAD({write}), .WRE(we), .WCK(clk), .RAD({read}), .DO(q)
    );
endmodule
"""

ADDER = """\
module {name} (input [3:0] a, b, input carry, output [3:0] sum);
    wire between;
    CCU2C #(.INIT0(16'h96AA), .INIT1(16'h96AA), .INJECT1_0("NO"), .INJECT1_1("NO")) low (
        .CIN({carry}), .A0(a[0]), .B0(b[0]), .C0(1'b0), .D0(1'b1), .A1(a[1]), .B1(b[1]), .C1(1'b0), .D1(1'b1),
        .S0(sum[0]), .S1(sum[1]), .COUT(between)
    );
    CCU2C #(.INIT0(16'h96AA), .INIT1(16'h96AA), .INJECT1_0("NO"), .INJECT1_1("NO")) high (
        .CIN(between), .A0(a[2]), .B0(b[2]), .C0(1'b0), .D0(1'b1), .A1(a[3]), .B1(b[3]), .C1(1'b0), .D1(1'b1),
        .S0(sum[2]), .S1(sum[3])
    );
endmodule
"""

SCRIPT = """\
read_verilog -lib models.v
read_verilog ours.v
techmap -map map.v ours
opt_clean ours
write_verilog -noattr mapped.v
design -reset
read_verilog models.v
read_verilog mapped.v
read_verilog theirs.v
hierarchy -check
proc
flatten
memory -nomap
memory_map
async2sync
opt -full
miter -equiv -flatten theirs ours miter
hierarchy -top miter
opt -full
sat -verify -prove trigger 0 -seq 4 -timeout 60 miter
"""


def mapped(folder: Path, text: str, library: str = MAP, **values: str) -> str:
    """The mapped module ``text``, if it is equal to what it was."""
    models = ("TRELLIS_DPR16X4", "CCU2C", "LUT4", "LUT2")
    (folder / "models.v").write_text("".join(vendor_model("ecp5", name) for name in models))
    (folder / "map.v").write_text(library)
    for name in ("ours", "theirs"):
        module = text
        for place, value in {"name": name, **values}.items():
            module = module.replace(f"{{{place}}}", value)
        (folder / f"{name}.v").write_text(module)
    result = run_yosys(folder, SCRIPT)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    return (folder / "mapped.v").read_text()


def connections(text: str, port: str) -> list[str]:
    """What cells have at a port, in the order of the text."""
    return [re.sub(r"[{} ]", "", found) for found in re.findall(rf"\.{port}\((.*)\)", text)]


@pytest.mark.parametrize(
    ("write", "read", "expected"),
    [
        ("{2'b00, write[1:0]}", "{2'b00, read[1:0]}", ("write[1],write[1],write[1:0]", "read[1],read[1],read[1:0]")),
        ("{3'b000, write[0]}", "{3'b000, read[2]}", (",".join(4 * ["write[0]"]), ",".join(4 * ["read[2]"]))),
        ("{write[3], 1'b0, write[1:0]}", "{read[3], 1'b0, read[1:0]}",
         ("write[3],write[1],write[1:0]", "read[3],read[1],read[1:0]")),
        # Left alone: no constants, constants of one port only, ones, and a lowest bit, which has none to repeat.
        ("write", "read", ("write", "read")),
        ("{1'b0, write[2:0]}", "read", ("1'h0,write[2:0]", "read")),
        ("{1'b1, write[2:0]}", "{1'b1, read[2:0]}", ("1'h1,write[2:0]", "1'h1,read[2:0]")),
        ("{write[2:0], 1'b0}", "{read[2:0], 1'b0}", ("write[2:0],1'h0", "read[2:0],1'h0")),
    ],
)  # fmt: skip
def test_a_constant_bit_repeats_the_one_below(tmp_path: Path, write: str, read: str, expected: tuple[str, str]) -> None:
    text = mapped(tmp_path, MEMORY, write=write, read=read)
    assert (*connections(text, "WAD"), *connections(text, "RAD")) == expected


@pytest.mark.parametrize("carry", ["1'b0", "1'b1"])
def test_a_constant_carry_comes_from_a_cell_without_inputs(tmp_path: Path, carry: str) -> None:
    text = mapped(tmp_path, ADDER, carry=carry)
    assert sorted(connections(text, "CIN"))[0] == "1'hx" and text.count("CCU2C #") == 3
    assert connections(text, "A0").count("1'h1") == 1


def test_another_carry_is_left_alone(tmp_path: Path) -> None:
    assert connections(mapped(tmp_path, ADDER, carry="carry"), "CIN") == ["between", "carry"]


@pytest.mark.parametrize(
    ("right", "wrong", "text"),
    [("repeated(INITVAL)", "INITVAL", MEMORY), ("16'h000F", "16'h0000", ADDER), ("16'h000F", "16'hF00F", ADDER)],
)
def test_a_difference_is_found(tmp_path: Path, right: str, wrong: str, text: str) -> None:
    """Places that repeated bits lead to hold something at first; a carry is generated, and not propagated."""
    assert right in MAP
    with pytest.raises(AssertionError, match="proof did fail"):
        mapped(
            tmp_path,
            text,
            MAP.replace(right, wrong),
            write="{2'b00, write[1:0]}",
            read="{2'b00, read[1:0]}",
            carry="1'b1",
        )
