"""Benches without a link: a component with a write port, plain ports and streams of odd widths under ``run_bench``."""

from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.errors import SimulationError
from emberline.simulation.bench import run_bench
from emberline.simulation.plan import WritePort, plan_bench

BENCH = Path(__file__).with_name("bench_accumulator.py")
TABLE = [(index * 977 + 5) % 4096 for index in range(16)]
WRITE_PORTS = {"table": WritePort(payload=("table_addr", "table_data"), enable="table_enable")}


class Accumulator(wiring.Component):
    """A table written word by word; each input item selects an entry; after ``count`` items their sum comes out.

    With ``broken``, the result changes while it waits.
    """

    def __init__(self, *, broken: bool = False):
        self._broken = broken
        super().__init__(
            {
                "table_addr": In(4),
                "table_data": In(12),
                "table_enable": In(1),
                "start": In(1),
                "count": In(8),
                "busy": Out(1),
                "total": Out(20),
                "i": In(stream.Signature(4)),
                "o": Out(stream.Signature(20)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        table = [Signal(12, name=f"entry_{index}") for index in range(16)]
        left, selected, done = Signal(8), Signal(12), Signal()
        with m.If(self.table_enable):
            for index, entry in enumerate(table):
                with m.If(self.table_addr == index):
                    m.d.sync += entry.eq(self.table_data)
        with m.Switch(self.i.payload):
            for index, entry in enumerate(table):
                with m.Case(index):
                    m.d.comb += selected.eq(entry)
        m.d.comb += [
            self.i.ready.eq(left != 0),
            self.busy.eq((left != 0) | done),
            self.o.valid.eq(done),
            self.o.payload.eq(self.total),
        ]
        with m.If(self.start & ~self.busy):
            m.d.sync += [left.eq(self.count), self.total.eq(0)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.total.eq(self.total + selected), left.eq(left - 1), done.eq(left == 1)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += done.eq(0)
        if self._broken:
            with m.If(done):
                m.d.sync += self.total.eq(self.total + 1)
        return m


def run_accumulator(testcase: str, *, broken: bool = False, **parameters):
    return run_bench(
        Accumulator(broken=broken), BENCH, testcase, {"table": TABLE, **parameters}, write_ports=WRITE_PORTS
    )


@pytest.mark.parametrize("stalls", [{}, {"i": 0.5}, {"o": 0.9}, {"i": 0.3, "o": 0.7, "table": 0.4}], ids=str)
def test_results_come_through_and_stalls_cost_cycles(stalls):
    batches = [[(3 * index + size) % 16 for index in range(size)] for size in (1, 40, 255)]
    report = run_accumulator("sums_selected_entries", batches=batches, stalls=stalls, seed=3)
    assert report["results"] == [sum(TABLE[item] for item in items) for items in batches]
    assert report["waiting"] == 0
    if stalls:
        assert report["cycles"][2] > 256
    else:
        assert report["cycles"] == [2, 41, 256]


def test_waiting_for_an_output_stops_in_its_first_cycle():
    assert run_accumulator("waits_for_an_output") == 61


def test_a_failure_in_the_simulator_fails_the_test_with_its_message():
    with pytest.raises(AssertionError, match="the total is not what it should be"):
        run_accumulator("fails")


def test_a_limit_in_simulated_cycles_ends_a_bench_that_waits_in_vain():
    with pytest.raises(AssertionError, match="'o' gave 0 of 1 items within 500 cycles"):
        run_accumulator("times_out")


def test_a_broken_stream_rule_fails_the_bench():
    with pytest.raises(AssertionError, match="stream 'o' changed or withdrew an item"):
        run_accumulator("sums_selected_entries", broken=True, batches=[[1, 2]] * 9, stalls={"o": 0.9}, seed=1)


def test_a_simulator_that_dies_is_an_error():
    with pytest.raises(SimulationError, match=r"without results \(exit status 7\)"):
        run_accumulator("dies")


def test_a_test_that_does_not_exist_is_an_error():
    with pytest.raises(SimulationError, match="no test ran|without results"):
        run_accumulator("no_such_test")


def test_wrong_items_are_refused():
    assert run_accumulator("refuses_wrong_items") == [
        "16 does not fit the 4 bits of 'i'",
        "an item of 'table' has 2 fields, not 1",
        "16 does not fit the 4 bits of 'table'",
        "items of 'i' are 4 bits wide, not bytes",
    ]


def test_a_write_port_must_exist():
    component = Accumulator()
    with pytest.raises(ValueError, match="'table' wants port 'table_address'"):
        plan_bench(component, write_ports={"table": WritePort(("table_address",), "table_enable")})
    plan = plan_bench(component)
    assert [channel.name for channel in plan.sources] == ["i"]
    assert "table_enable" in [port.name for port in plan.inputs]
    run_bench(component, BENCH, "waits_for_an_output", {"table": TABLE}, write_ports=WRITE_PORTS)
