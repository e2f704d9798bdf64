"""The stream helpers: they carry items through correct components and fail on each kind of incorrect one."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from emberline.simulation.streams import PATTERNS, output_streams, random_gaps, reluctant_sink, simulate, sink, source


class Register(wiring.Component):
    """One stage that adds 1. ``fault`` names the rule that it breaks."""

    def __init__(self, fault: str = ""):
        self._fault = fault
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        m = Module()
        full, item, age = Signal(), Signal(8), Signal(8)
        m.d.comb += [self.i.ready.eq(~full | self.o.ready), self.o.valid.eq(full), self.o.payload.eq(item)]
        m.d.sync += age.eq(age + 1)
        with m.If(self.i.ready):
            m.d.sync += [full.eq(self.i.valid), item.eq(self.i.payload + 1)]
        if self._fault == "withdraws":
            m.d.comb += [self.o.valid.eq(full & age[1]), self.i.ready.eq(~full | (self.o.ready & age[1]))]
        elif self._fault == "changes":
            m.d.comb += self.o.payload.eq(item ^ age)
        elif self._fault == "waits":
            m.d.comb += self.o.valid.eq(full & self.o.ready)
        elif self._fault == "waits a cycle":
            seen = Signal()
            m.d.sync += seen.eq(self.o.ready)
            m.d.comb += self.o.valid.eq(full & seen)
            m.d.comb += self.i.ready.eq(~full | (self.o.ready & seen))
        elif self._fault == "repeats":
            again = Signal()
            m.d.sync += again.eq(self.o.valid & self.o.ready)
            m.d.comb += self.o.valid.eq(full | again)
        return m


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_items_pass_in_order(pattern, seed):
    items = [(7 * index + seed) & 0xFF for index in range(60)]
    received: list[int] = []
    component = Register()
    simulate(
        component,
        source(component.i, items, gaps=pattern.idle(seed)),
        sink(component.o, len(items), into=received, gaps=pattern.stall(seed)),
    )
    assert received == [(item + 1) & 0xFF for item in items]


def test_reluctant_sink_receives_from_a_correct_component():
    component = Register()
    received: list[int] = []
    simulate(component, source(component.i, range(10)), reluctant_sink(component.o, 10, into=received))
    assert received == list(range(1, 11))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("withdraws", "valid fell before the transfer"),
        ("changes", "payload changed from"),
        ("waits", "depends on ready within a cycle"),
        ("repeats", "gave one more|payload changed"),
    ],
)
def test_a_broken_rule_fails(fault, message):
    component = Register(fault)
    received: list[int] = []
    with pytest.raises(AssertionError, match=message):
        simulate(
            component,
            source(component.i, range(20)),
            sink(component.o, 20, into=received, gaps=random_gaps(1)),
            deadline_cycles=500,
        )


@pytest.mark.parametrize("fault", ["waits", "waits a cycle"])
def test_valid_that_waits_for_ready_runs_into_the_deadline(fault):
    component = Register(fault)
    with pytest.raises(AssertionError, match="did not end within 200 cycles"):
        simulate(
            component,
            source(component.i, range(3)),
            reluctant_sink(component.o, 3, into=[]),
            monitored=[],
            deadline_cycles=200,
        )


def test_structured_payloads_pass():
    layout = data.StructLayout({"low": 4, "high": 4})

    class Fifo(wiring.Component):
        i: In(stream.Signature(layout))
        o: Out(stream.Signature(layout))

        def elaborate(self, platform) -> Module:
            m = Module()
            m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=4)
            m.d.comb += [
                fifo.w_data.eq(self.i.payload),
                fifo.w_en.eq(self.i.valid),
                self.i.ready.eq(fifo.w_rdy),
                self.o.payload.eq(fifo.r_data),
                self.o.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(self.o.ready),
            ]
            return m

    component = Fifo()
    received: list = []
    simulate(
        component,
        source(component.i, [{"low": 1, "high": 2}, {"low": 15, "high": 0}]),
        sink(component.o, 2, into=received),
    )
    assert [(int(item.low), int(item.high)) for item in received] == [(1, 2), (15, 0)]


def test_output_streams_are_found():
    component = Register()
    assert [id(port) for port in output_streams(component)] == [id(component.o)]
    simulate(component)


def test_gaps_have_the_density_and_repeat_with_the_seed():
    gaps = random_gaps(5, density=0.25, burst=3)
    drawn = [next(gaps) for _ in range(4000)]
    again = random_gaps(5, density=0.25, burst=3)
    assert drawn == [next(again) for _ in range(4000)]
    assert 0.2 < sum(drawn) / len(drawn) < 0.3


def test_waves_are_written_on_request(tmp_path):
    component = Register()
    received: list[int] = []
    simulate(component, source(component.i, [1]), sink(component.o, 1, into=received), waves=tmp_path / "register.vcd")
    assert "$enddefinitions" in (tmp_path / "register.vcd").read_text()
