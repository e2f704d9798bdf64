"""cocotb benches as pytest tests: one call builds the component (or finds the build), runs the bench and judges it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from emberline.errors import SimulationError
from emberline.simulation.build import build_bench
from emberline.simulation.harness import PARAMETERS_VARIABLE, RESULT_VARIABLE
from emberline.simulation.plan import Uart, WritePort
from emberline.simulation.process import log_tail, start_simulator, stop_simulator

if TYPE_CHECKING:
    from amaranth.lib import wiring


def run_bench(
    component: wiring.Component | Callable[[], wiring.Component],
    test_module: str | Path,
    testcase: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    write_ports: dict[str, WritePort] | None = None,
    uart: Uart | None = None,
    waves: Path | None = None,
    timeout_s: float = 600,
    seed: int = 0,
) -> Any:
    """Run cocotb tests on a component and return what the bench reported.

    Parameters:
        test_module: a module name, or the path of a Python file; its ``@cocotb.test`` functions make a ``Bench(dut)``.
        testcase: the name of the one test to run; ``None`` for all in the module.
        parameters: JSON-able values that the bench finds in ``Bench.parameters``.
        component, recipe, write_ports, uart: see ``build_bench``.
        waves: write a VCD file there.
        timeout_s: wall-clock limit of the whole run.
        seed: of Python's ``random`` in the bench.

    Returns what the last ``Bench.report`` handed over, or ``None``.
    Raises ``AssertionError`` with the messages of the failed tests, ``SimulationError`` when there is no verdict.
    """
    build = build_bench(component, recipe=recipe, write_ports=write_ports, uart=uart, waves=waves is not None)
    module, python_path = (
        (test_module.stem, [test_module.absolute().parent]) if isinstance(test_module, Path) else (test_module, [])
    )
    with tempfile.TemporaryDirectory(prefix="emberline-bench-") as name:
        folder = Path(name)
        process = start_simulator(
            build,
            module,
            folder,
            test_filter=rf"(^|\.){re.escape(testcase)}$" if testcase else "",
            variables={
                PARAMETERS_VARIABLE: json.dumps(dict(parameters or {})),
                RESULT_VARIABLE: str(folder / "report.json"),
            },
            python_path=python_path,
            waves=waves,
            seed=seed,
        )
        try:
            process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise SimulationError(f"bench {module} did not end within {timeout_s} s\n{log_tail(folder)}") from error
        finally:
            stop_simulator(process, 0)
        if os.environ.get("EMBERLINE_BENCH_LOG"):
            sys.stderr.write((folder / "simulator.log").read_text(errors="replace"))
        _judge(folder, f"{module}.{testcase or '*'}", process.returncode, f"seed {seed}, parameters {parameters}")
        report = folder / "report.json"
        return json.loads(report.read_text()) if report.exists() else None


def _judge(folder: Path, what: str, returncode: int, setting: str) -> None:
    """Raise unless cocotb's results say that at least one test ran and none failed."""
    try:
        cases = list(ElementTree.parse(folder / "results.xml").getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        message = f"the simulator ended without results (exit status {returncode})"
        raise SimulationError(f"{what}: {message}\n{log_tail(folder)}") from error
    failures = []
    for case in cases:
        for kind in ("failure", "error"):
            for element in case.iter(kind):
                text = element.get("message") or element.get("error_msg") or (element.text or "").strip() or kind
                failures.append(f"{case.get('name')}: {element.get('type') or element.get('error_type') or ''} {text}")
    if failures:
        raise AssertionError(f"{what} ({setting})\n" + "\n".join(failures) + f"\n{log_tail(folder)}")
    if not [case for case in cases if not list(case.iter("skipped"))]:
        raise SimulationError(f"{what}: no test ran\n{log_tail(folder)}")
