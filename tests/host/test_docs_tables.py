"""The generated tables in the documents are those of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from emberline.arch.isa import ADD, LAYOUTS, PARAMETERS, POOL


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "tables.py"
    specification = importlib.util.spec_from_file_location("tables", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_documents_are_fresh(tables: ModuleType) -> None:
    for path in tables.DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert tables.render(text) == text, f"{path.name} is stale: run python scripts/tables.py"


def test_charts_show_the_present_prediction(tables: ModuleType) -> None:
    assert not tables.network_tables.stale_charts(), "stale: run python scripts/tables.py (needs matplotlib)"


def test_tables_of_networks_are_what_the_compiler_predicts(tables: ModuleType, data_folder: Path) -> None:
    program = tables.network_tables.predicted("resnet8")
    lost, measured = (tables.network_tables.TABLES[f"networks.{name}"]() for name in ("LOST_CYCLES", "MEASURED"))
    assert f"| **{program.predicted_cycles:,}** |" in lost
    assert f"| {sum(layer.spent.taps for layer in program.layers):,} |" in lost
    assert f"| {program.predicted_cycles:,} | {100 * program.utilisation:.1f} % |" in measured


def test_the_stages_of_the_example_make_up_its_program(tables: ModuleType) -> None:
    rows = [line.split(" | ") for line in tables.network_tables.fire_stages_table().splitlines()[2:]]
    layers = [name for row in rows for name in row[0].removeprefix("| ").split(", ")]
    program = tables.network_tables.fused_program()
    assert layers == [layer.name for layer in program.layers]
    assert max(float(row[2]) for row in rows) <= program.architecture.activation_bytes / 1024
    assert any(float(row[3]) > program.architecture.activation_bytes / 1024 for row in rows)


def test_every_layout_is_documented(tables: ModuleType) -> None:
    text = next(path for path in tables.DOCUMENTS if path.name == "isa.md").read_text(encoding="utf-8")
    for layout in (*LAYOUTS.values(), ADD, POOL, PARAMETERS):
        assert f"<!-- begin generated: {layout.name} -->" in text
        for field in layout.fields:
            assert f"| `{field.name}` |" in text
    assert tables.render("<!-- begin generated: SET -->\nold\n<!-- end generated -->") != "old"


def test_check_reports_staleness(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "isa.md"
    path.write_text("<!-- begin generated: SET -->\n<!-- end generated -->\n")
    monkeypatch.setattr(tables, "DOCUMENTS", (path,))
    monkeypatch.setattr(tables.network_tables, "stale_charts", list)
    assert tables.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().out
    assert tables.main([]) == 0
    assert tables.main(["--check"]) == 0
    assert "`pointer`" in path.read_text()
