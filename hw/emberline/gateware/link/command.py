"""Executes requests on the accelerator."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.framing import PacketEnd
from emberline.arch.packets import PROTOCOL_VERSION, REQUEST, RESPONSE, ROWS, RequestType, ResponseCode
from emberline.gateware.link.core_ports import CHUNK_BYTES, CoreSignature
from emberline.gateware.link.packet_receiver import END_WIDTH
from emberline.gateware.link.payload import WORD_BYTES, RowWriter, WordWriter
from emberline.gateware.link.responder import Responder
from emberline.gateware.structures import structure

SETTLE_CYCLES = 128
"""From an effect on the machine to the state that the response reports: the last row's words and padding are stored."""

EFFECTS = (
    RequestType.START,
    RequestType.FRAME_ROWS,
    RequestType.RELEASE_RESULT,
    RequestType.RESET,
    RequestType.WEIGHT_STREAM,
)
"""Requests that end in a strobe."""


class Command(wiring.Component):
    """Carries out requests one after the other and responds to each (`docs/protocol.md` is the specification).

    A request that has the type and the sequence number of the one before, which succeeded, is a retry: it is answered
    ``OK`` again and has no second effect. Payloads of writes go straight into the memories, damaged or not; rows, and
    weights for LOADs, count only if the whole request was good.

    Parameters: ``architecture``.

    Members:
        i_header, i_payload, i_end: requests, as `PacketReceiver` gives them; the header's payload must stay
            unchanged until ``i_end`` is transferred, and the last payload byte be offered no later than ``i_end``.
        o_header, o_payload: responses, as `PacketTransmitter` takes them.
        header_error, line_error: strobes to be counted.
        core: the accelerator.

    Fifteen cycles from the end of a request to its response, ``SETTLE_CYCLES`` more if it had an effect.
    Nothing on ``core`` can block it, save a result that is announced and not delivered.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "i_header": In(stream.Signature(structure(REQUEST))),
                "i_payload": In(stream.Signature(8)),
                "i_end": In(stream.Signature(END_WIDTH)),
                "o_header": Out(stream.Signature(structure(RESPONSE))),
                "o_payload": Out(stream.Signature(8)),
                "header_error": In(1),
                "line_error": In(1),
                "core": Out(CoreSignature(architecture)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.responder = responder = Responder(self._architecture)
        code = Signal(responder.code.shape())
        self._header = header = Signal(structure(REQUEST), reset_less=True)
        self._duplicate = Signal()
        self._accepted, self._fine = Signal(), Signal(reset_less=True)
        self._supplied = self._architecture.fetches_from_link
        payloads = [RequestType.FRAME_ROWS, RequestType.WRITE_PROGRAM, RequestType.WRITE_WEIGHTS]
        payloads += self._supplied * [RequestType.WEIGHT_STREAM]
        self._routes = {request: Signal(name=f"to_{request.name.lower()}") for request in payloads}
        self._rows_entered = Signal(16)
        self._weights_entered = Signal(32)  # words, modulo 2^32
        self._program_id = Signal(32)
        self._payload_begins, self._payload_open = Signal(), Signal()
        self._types = {request: Signal(name=f"is_{request.name.lower()}", reset_less=True) for request in RequestType}
        m.d.sync += [decoded.eq(header.type == request) for request, decoded in self._types.items()]
        effect = Signal(reset_less=True)
        m.d.sync += effect.eq(reduce(or_, (self._types[request] for request in EFFECTS)))
        end = Signal(END_WIDTH)
        wait = Signal(range(SETTLE_CYCLES))
        rows = self._payload_paths(m)
        checked = self._check(m)
        judged = self._judge(m, code, end, rows)
        self._respond(m, responder, code)
        strobes = ["start", "clear", "frame_commit", "frame_abort", "result_release"]
        strobes += self._supplied * ["supply_commit", "supply_abort"]
        m.d.sync += [getattr(self.core, name).eq(0) for name in strobes]
        self._wrote = Signal()
        m.d.sync += self._wrote.eq(0)
        # Both are registers, so that the receiver's states do not wait for the ones here.
        takes_header, takes_end = Signal(), Signal()
        m.d.comb += [self.i_header.ready.eq(takes_header), self.i_end.ready.eq(takes_end)]
        m.d.sync += [takes_header.eq(0), takes_end.eq(0)]
        self._follow(m)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [header.eq(self.i_header.p), takes_header.eq(self.i_header.valid & ~takes_header)]
                with m.If(takes_header):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "MEASURE"
            with m.State("MEASURE"):
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += code.eq(checked)
                m.next = "ACCEPT"
            with m.State("ACCEPT"):
                accepted = (code == ResponseCode.OK) & ~self._duplicate
                m.d.sync += self._accepted.eq(accepted)
                m.d.sync += [route.eq(accepted & self._types[request]) for request, route in self._routes.items()]
                m.d.comb += self._payload_begins.eq(1)
                m.d.sync += self._payload_open.eq(1)
                m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.sync += takes_end.eq(self.i_end.valid & ~self.i_payload.valid & ~rows.busy & ~takes_end)
                with m.If(takes_end):
                    m.d.sync += [end.eq(self.i_end.payload), self._payload_open.eq(0)]
                    m.next = "WEIGH"
            with m.State("WEIGH"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += code.eq(judged)
                m.next = "VERDICT"
            with m.State("VERDICT"):
                m.d.sync += self._fine.eq(code == ResponseCode.OK)
                m.next = "EXECUTE"
            with m.State("EXECUTE"):
                self._execute(m)
                m.d.sync += wait.eq(SETTLE_CYCLES - 1)
                m.next = "SETTLE"
                with m.If(~self._accepted | ~effect):
                    m.next = "COMPOSE"
            with m.State("SETTLE"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.next = "COMPOSE"
            with m.State("COMPOSE"):
                m.d.comb += responder.start.eq(1)
                m.next = "RESPOND"
            with m.State("RESPOND"):
                with m.If(~responder.busy):
                    m.next = "IDLE"
        return m

    def _check(self, m: Module) -> Value:
        """The code as far as the header decides it; it rests on registers that have settled in COMPARE and MEASURE."""
        header, core, architecture = self._header, self.core, self._architecture
        last_valid, self._remember, self._forget = Signal(), Signal(), Signal()
        last_type, last_sequence = Signal.like(header.type), Signal.like(header.sequence)
        with m.If(self._forget):
            m.d.sync += last_valid.eq(0)
        with m.If(self._remember):
            m.d.sync += [last_valid.eq(1), last_type.eq(header.type), last_sequence.eq(header.sequence)]
        empty, whole_words, in_step, stopped_by_fault = Signal(), Signal(), Signal(), Signal()
        words_end = Signal(len(header.argument) + 1)
        newest_frame = Signal(16)
        running, no_result, other_version = Signal(), Signal(), Signal()
        m.d.sync += [
            running.eq(core.running),
            no_result.eq(~core.result_valid | (header.argument != newest_frame)),
            other_version.eq(header.version != PROTOCOL_VERSION),
            self._duplicate.eq(last_valid & (last_type == header.type) & (last_sequence == header.sequence)),
            empty.eq(header.length == 0),
            whole_words.eq((header.length % WORD_BYTES == 0) & (header.length != 0)),
            words_end.eq(header.argument + header.length // WORD_BYTES),
            in_step.eq(self._rows.first_row == self._rows_entered),
            newest_frame.eq(core.frames_done - 1),
            stopped_by_fault.eq(core.fault != 0),
        ]
        code = Signal(structure(RESPONSE)["code"].shape, name="checked")

        def unless(*conditions: tuple[Value, ResponseCode]) -> None:
            """The first condition that holds decides."""
            m.d.comb += code.eq(ResponseCode.OK)
            for condition, refusal in reversed(conditions):
                with m.If(condition):
                    m.d.comb += code.eq(refusal)

        is_new = ~self._duplicate
        types = self._types
        m.d.comb += code.eq(ResponseCode.UNKNOWN_TYPE)
        for request, depth in (
            (RequestType.WRITE_PROGRAM, architecture.program_depth_words),
            (RequestType.WRITE_WEIGHTS, architecture.weight_bytes // CHUNK_BYTES),
        ):
            beyond = Signal(name=f"beyond_{request.name.lower()}")
            m.d.sync += beyond.eq(words_end > depth)
            with m.If(types[request]):
                unless(
                    (~whole_words, ResponseCode.BAD_LENGTH),
                    (running, ResponseCode.RUNNING),
                    (beyond, ResponseCode.BAD_ADDRESS),
                )
        with m.If(types[RequestType.FRAME_ROWS]):
            unless(
                (empty, ResponseCode.BAD_LENGTH),
                (is_new & stopped_by_fault, ResponseCode.FAULTED),
                (is_new & ~running, ResponseCode.NOT_RUNNING),
                (is_new & ~in_step, ResponseCode.OUT_OF_STEP),
            )
        if self._supplied:
            self._check_supply(m, unless, whole_words, is_new & stopped_by_fault, is_new & ~running)
        with m.If(types[RequestType.START]):
            unless(
                (~empty, ResponseCode.BAD_LENGTH),
                (is_new & stopped_by_fault, ResponseCode.FAULTED),
                (is_new & running, ResponseCode.RUNNING),
            )
        with m.If(types[RequestType.READ_RESULT]):
            unless((~empty, ResponseCode.BAD_LENGTH), (no_result, ResponseCode.NO_RESULT))
        with m.If(types[RequestType.RELEASE_RESULT]):
            unless((~empty, ResponseCode.BAD_LENGTH), (is_new & no_result, ResponseCode.NO_RESULT))
        with m.If(types[RequestType.IDENTITY] | types[RequestType.STATUS] | types[RequestType.RESET]):
            unless((~empty, ResponseCode.BAD_LENGTH))
        with m.If(other_version):
            m.d.comb += code.eq(ResponseCode.BAD_VERSION)
        return code

    def _check_supply(
        self, m: Module, unless: Callable[..., None], whole_words: Value, faulted: Value, stopped: Value
    ) -> None:
        """The check of WEIGHT_STREAM. Its payload fits before any of it is taken; meanwhile there is only more room."""
        header, in_step, too_many = self._header, Signal(name="weights_in_step"), Signal(name="too_many_weights")
        m.d.sync += [
            in_step.eq(header.argument == self._weights_entered),
            too_many.eq((header.length >> 2) > self.core.supply_room),
        ]
        with m.If(self._types[RequestType.WEIGHT_STREAM]):
            unless(
                (~whole_words, ResponseCode.BAD_LENGTH),
                (faulted, ResponseCode.FAULTED),
                (stopped, ResponseCode.NOT_RUNNING),
                (~self._duplicate & ~in_step, ResponseCode.OUT_OF_STEP),
                (~self._duplicate & too_many, ResponseCode.NO_ROOM),
            )

    def _payload_paths(self, m: Module) -> RowWriter:
        """Leads the payload to where the request's type wants it; what was refused goes nowhere."""
        header, core, architecture = self._header, self.core, self._architecture
        self._rows = data.View(structure(ROWS), header.argument)
        m.submodules.rows = rows = RowWriter()
        m.d.comb += [
            rows.start.eq(self._payload_begins),
            rows.running.eq(core.running),
            rows.free_rows.eq(core.frame_free_rows),
            rows.row_bytes.eq(core.frame_row_bytes),
            rows.i.payload.eq(self.i_payload.payload),
        ]
        wiring.connect(m, rows.o, wiring.flipped(core.i_frame))
        to_rows, in_payload = self._routes[RequestType.FRAME_ROWS], Signal()
        m.d.comb += [
            in_payload.eq(self._payload_open & self.i_payload.valid),
            rows.i.valid.eq(to_rows & in_payload),
            self.i_payload.ready.eq(self._payload_open & (~to_rows | rows.i.ready)),
        ]
        for name, request, depth in (
            ("program", RequestType.WRITE_PROGRAM, architecture.program_depth_words),
            ("weight", RequestType.WRITE_WEIGHTS, architecture.weight_bytes // CHUNK_BYTES),
        ):
            m.submodules[name] = words = WordWriter(ceil_log2(depth))
            m.d.comb += [
                words.start.eq(self._payload_begins),
                words.address.eq(header.argument),
                words.i.payload.eq(self.i_payload.payload),
                words.i.valid.eq(in_payload & self._routes[request]),
                getattr(core, f"{name}_enable").eq(words.o_enable),
                getattr(core, f"{name}_address").eq(words.o_address),
                getattr(core, f"{name}_data").eq(words.o_data),
            ]
        if self._supplied:
            m.submodules.supply = words = WordWriter(1)  # their order is their address
            m.d.comb += [
                words.start.eq(self._payload_begins),
                words.i.payload.eq(self.i_payload.payload),
                words.i.valid.eq(in_payload & self._routes[RequestType.WEIGHT_STREAM]),
                core.supply_enable.eq(words.o_enable),
                core.supply_data.eq(words.o_data),
            ]
        return rows

    def _judge(self, m: Module, code: Signal, end: Signal, rows: RowWriter) -> Value:
        """The code once the payload has ended; it rests on registers that have settled in state WEIGH."""
        judged = Signal.like(code, name="judged")
        faulted, stopped, full, differs = (Signal(name=name) for name in ("faulted", "stopped", "full", "differs"))
        m.d.sync += [
            faulted.eq(self.core.fault != 0),
            stopped.eq(~self.core.running),
            full.eq(rows.overflow),
            differs.eq(rows.partial | (rows.rows != self._rows.rows)),
        ]
        m.d.comb += judged.eq(code)
        with m.If(self._routes[RequestType.FRAME_ROWS]):
            with m.If(faulted):
                m.d.comb += judged.eq(ResponseCode.FAULTED)
            with m.Elif(stopped):
                m.d.comb += judged.eq(ResponseCode.NOT_RUNNING)
            with m.Elif(full):
                m.d.comb += judged.eq(ResponseCode.NO_ROOM)
            with m.Elif(differs):
                m.d.comb += judged.eq(ResponseCode.BAD_ROWS)
        if self._supplied:
            with m.If(self._routes[RequestType.WEIGHT_STREAM] & (faulted | stopped)):
                m.d.comb += judged.eq(Mux(faulted, ResponseCode.FAULTED, ResponseCode.NOT_RUNNING))
        with m.If(end == PacketEnd.DAMAGED):
            m.d.comb += judged.eq(ResponseCode.DAMAGED)
        with m.If(end == PacketEnd.TRUNCATED):
            m.d.comb += judged.eq(ResponseCode.TRUNCATED)
        with m.If(end == PacketEnd.OVERSIZE):
            m.d.comb += judged.eq(ResponseCode.BAD_LENGTH)
        return judged

    def _execute(self, m: Module) -> None:
        """State EXECUTE: the strobes, registered."""
        core, types, fine = self.core, self._types, self._fine
        m.d.comb += [self._remember.eq(fine), self._forget.eq(~fine & ~self._duplicate)]
        with m.If(self._accepted):
            m.d.sync += [
                core.start.eq(types[RequestType.START] & fine),
                core.frame_commit.eq(types[RequestType.FRAME_ROWS] & fine),
                core.frame_abort.eq(types[RequestType.FRAME_ROWS] & ~fine),
                core.result_release.eq(types[RequestType.RELEASE_RESULT] & fine),
                core.clear.eq(types[RequestType.RESET] & fine),
                self._wrote.eq(types[RequestType.WRITE_PROGRAM] | types[RequestType.WRITE_WEIGHTS]),
            ]
            if self._supplied:
                m.d.sync += [
                    core.supply_commit.eq(types[RequestType.WEIGHT_STREAM] & fine),
                    core.supply_abort.eq(types[RequestType.WEIGHT_STREAM] & ~fine),
                ]

    def _follow(self, m: Module) -> None:
        """What the link itself remembers follows the strobes a cycle later."""
        core, header = self.core, self._header
        with m.If(core.start):
            m.d.sync += self._program_id.eq(header.argument)
        # The identity speaks for the memories' contents, and even a damaged write has changed them.
        with m.If(core.clear | self._wrote):
            m.d.sync += self._program_id.eq(0)
        with m.If(core.frame_commit):
            m.d.sync += self._rows_entered.eq(self._rows_entered + self._rows.rows)
        if self._supplied:
            with m.If(core.supply_commit):
                m.d.sync += self._weights_entered.eq(self._weights_entered + (header.length >> 2))
        with m.If(core.start | core.clear):
            m.d.sync += [self._rows_entered.eq(0), self._weights_entered.eq(0)]

    def _respond(self, m: Module, responder: Responder, code: Signal) -> None:
        core, header, status = self.core, self._header, responder.status
        wiring.connect(m, responder.o_header, wiring.flipped(self.o_header))
        wiring.connect(m, responder.o_payload, wiring.flipped(self.o_payload))
        wiring.connect(m, wiring.flipped(core.o_result), responder.i_result)
        m.d.comb += [
            responder.type.eq(header.type),
            responder.sequence.eq(header.sequence),
            responder.code.eq(code),
            core.result_start.eq(responder.result_start),
            status.program_id.eq(self._program_id),
            status.rows_entered.eq(self._rows_entered),
        ]
        m.d.comb += [
            getattr(status, ours).eq(theirs)
            for ours, theirs in (
                ("running", core.running),
                ("result_valid", core.result_valid),
                ("fault", core.fault),
                ("frames_done", core.frames_done),
                ("free_rows", core.frame_free_rows),
                ("row_bytes", core.frame_row_bytes),
                ("result_bytes", core.result_bytes),
                ("cycles", core.cycles),
                ("stall_cycles", core.stall_cycles),
            )
        ]
        if self._supplied:
            m.d.comb += [status.free_weight_words.eq(core.supply_room), status.weights_awaited.eq(core.supply_awaited)]
        ended, ending = Signal(), Signal.like(self.i_end.payload, reset_less=True)
        m.d.sync += [ended.eq(self.i_end.valid & self.i_end.ready), ending.eq(self.i_end.payload)]
        for name, event in (
            ("header_errors", self.header_error),
            ("line_errors", self.line_error),
            ("payload_errors", ended & (ending == PacketEnd.DAMAGED)),
            ("truncations", ended & (ending == PacketEnd.TRUNCATED)),
        ):
            counter = Signal(16, name=name)
            with m.If(event):
                m.d.sync += counter.eq(counter + 1)
            m.d.comb += getattr(status, name).eq(counter)
