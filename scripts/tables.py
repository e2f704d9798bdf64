"""Write the tables that the code knows into the documents, between their markers; `--check` only compares.

    python scripts/tables.py [--check]

A generated part begins with a line `<!-- begin generated: NAME -->` and ends with `<!-- end generated -->`. Parts about
networks whose files are not here stay as they are. The charts of the networks are drawn too, if matplotlib is there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))

import network_tables

from emberline.arch import latency, packets, weight_code
from emberline.arch.isa import ADD, LAYOUTS, PARAMETERS, POOL, Fault, Opcode
from emberline.arch.layout import WORD_WIDTH, Layout
from emberline.arch.presets import preset

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    *(ROOT / "docs" / name for name in ("architecture.md", "isa.md", "protocol.md", "compression.md", "scheduling.md")),
    ROOT / "README.md",
)
_PART = re.compile(r"(<!-- begin generated: (\S+) -->\n).*?(<!-- end generated -->)", re.DOTALL)


def layout_table(layout: Layout) -> str:
    """Every field of a record with its place: word, lowest bit within it, width, range."""
    lines = [f"{layout.word_count} {'word' if layout.word_count == 1 else 'words'}, {layout.width} bits used.", ""]
    lines += ["| word.bit | width | field | range | meaning |", "|---:|---:|---|---|---|"]
    offset = 0
    for field in layout.fields:
        place = f"{offset // WORD_WIDTH}.{offset % WORD_WIDTH}"
        meaning = field.doc or ("which instruction" if field.name == "opcode" else "")
        limits = f"{field.minimum} … {field.maximum}"
        lines.append(f"| {place} | {field.width} | `{field.name}` | {limits} | {meaning} |")
        offset += field.width
    return "\n".join(lines) + "\n"


def opcode_table() -> str:
    lines = ["| code | instruction | words |", "|---:|---|---:|"]
    for opcode in Opcode:
        words = str(LAYOUTS[opcode].word_count)
        if opcode is Opcode.ROW:
            words += f", with ADD {LAYOUTS[opcode].word_count + ADD.word_count}"
            words += f", with POOL {LAYOUTS[opcode].word_count + POOL.word_count}"
        lines.append(f"| {opcode.value} | [{opcode.name}](#{opcode.name.lower()}) | {words} |")
    return "\n".join(lines) + "\n"


def fault_table() -> str:
    lines = ["| code | fault |", "|---:|---|"]
    lines += [f"| {fault.value} | {fault.name} |" for fault in Fault]
    return "\n".join(lines) + "\n"


def request_table() -> str:
    lines = ["| type | request | argument | payload | response | action |", "|---:|---|---|---|---|---|"]
    for request, each in packets.REQUESTS.items():
        columns = (each.argument, each.payload or "none", each.response or "none", each.action)
        lines.append(f"| {request.value} | `{request.name}` | " + " | ".join(columns) + " |")
    return "\n".join(lines) + "\n"


def code_table() -> str:
    lines = ["| code | name | meaning |", "|---:|---|---|"]
    lines += [f"| {code.value} | `{code.name}` | {meaning} |" for code, meaning in packets.CODES.items()]
    return "\n".join(lines) + "\n"


def pipeline_table() -> str:
    """The stages from a ROW's last tap to its last write, on the machine of the documents' example."""
    architecture = preset("ulx3s-85f")
    lines = ["| stage | cycles | since the tap |", "|---|---:|---:|"]
    total = 0
    for stage, cycles in latency.stages(architecture).items():
        total += cycles
        lines.append(f"| {stage} | {cycles} | {total} |")
    lines.append(
        f"| instead of the last but one, with a residual addition | {latency.addition_latency(architecture)} | |"
    )
    return "\n".join(lines) + "\n"


def tables() -> dict[str, str]:
    """All generated parts by name."""
    layouts = {layout.name: layout_table(layout) for layout in (*LAYOUTS.values(), ADD, POOL, PARAMETERS)}
    layouts |= {f"packets.{layout.name}": layout_table(layout) for layout in packets.LAYOUTS}
    layouts |= {"weight_code.HEADER": layout_table(weight_code.HEADER)}
    layouts |= {"packets.REQUESTS": request_table(), "packets.CODES": code_table()}
    layouts |= {"latency.PIPELINE": pipeline_table()}
    return layouts | {"OPCODES": opcode_table(), "FAULTS": fault_table()}


def render(text: str) -> str:
    """A document with its generated parts renewed; ``KeyError`` for a part that nothing generates."""
    generated = tables()

    def renew(part: re.Match[str]) -> str:
        if part[2] not in network_tables.TABLES:
            return part[1] + generated[part[2]] + part[3]
        table = network_tables.TABLES[part[2]]()
        return part[0] if table is None else part[1] + table + part[3]

    return _PART.sub(renew, text)


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    stale = 0
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (renewed := render(text)) != text:
            stale += 1
            print(f"{path}: {'stale' if check else 'written'}")
            if not check:
                path.write_text(renewed, encoding="utf-8")
    for path in network_tables.stale_charts():
        stale += 1
        print(f"{path}: {'stale' if check else 'drawn'}")
        if not check:
            network_tables.draw_chart(path)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
