"""The HDL test bench around a component: Python moves packets through its registers, the HDL moves items and clocks.

The generated bench has for each input stream of the component a *source* (a ring that Python fills and the HDL drains),
for each output stream a *sink* (the reverse), a register for every other input and a watch for every other output.
Python asks for a run by changing ``request``; the bench clocks the component until a stop condition holds and then
answers by setting ``served``. Standing still costs no cycle: the component sees one uninterrupted clock, so its cycle
counts do not depend on how Python cuts the traffic into pieces.

Stop conditions, all evaluated in the cycle that they end: the deadline; a source ran empty that has more to come; a
sink reached its target or filled its ring; a watched output had the wanted value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from emberline.simulation.plan import Channel, Plan, Port, Uart

# Constants of the stall generator: odd multipliers with well-mixed bits (Knuth's 2**32/phi, MurmurHash3's finaliser).
_STALL_MULTIPLIER = "32'h9E3779B1"
_STALL_FINALISER = "32'h85EBCA6B"


def generate_bench(plan: Plan, verilog: str) -> str:
    """Write the Verilog of the bench module ``bench`` around the module ``dut`` in ``verilog``."""
    lines = [
        "// Generated. The main program pulses `load` and then runs the clock while `running` is 1.",
        "module bench(input clk, input load, output running);",
        *_host_register("rst", 1, init=1),
        *_host_register("request", 32),
        *_host_register("deadline", 64),
        "  reg [31:0] served = 0;",
        "  reg [63:0] cycle = 0;",
        "  assign running = host_request != served;",
    ]
    stops = ["cycle + 64'd1 == deadline"]
    domain = re.findall(r"^ +input (clk|rst);", verilog, re.MULTILINE)
    connections = [f".{name}({name})" for name in dict.fromkeys(domain)]
    for index, source in enumerate(plan.sources):
        lines += _source(source, 2 * index)
        stops.append(f"{source.name}_stop")
    for index, sink in enumerate(plan.sinks):
        lines += _sink(sink, 2 * index + 1)
        lines += _tap(sink) if sink.is_tap else []
        stops.append(f"{sink.name}_stop")
    for port in plan.inputs:
        lines += _host_register(f"in_{port.name}", port.width)
        connections.append(f".{port.name}(in_{port.name})")
    for port in plan.outputs:
        lines += _watch(port)
        connections.append(f".{port.name}(out_{port.name})")
        stops.append(f"watch_{port.name}_stop")
    for channel in (*plan.sources, *plan.sinks):
        connections += [] if channel.is_tap else _connections(channel)
    if plan.uart is not None:
        lines += _uart_pins(plan.uart)
        connections += [f".{plan.uart.rx}(uart_rx)", f".{plan.uart.tx}(uart_tx)"]
    lines += [
        "  always @(posedge clk) begin",
        "    cycle <= cycle + 64'd1;",
        f"    if ({' | '.join(f'({stop})' for stop in stops)}) served <= request;",
        "  end",
        f"  dut dut({', '.join(connections)});",
        "endmodule",
        "",
    ]
    return "\n".join(lines) + (_UART_MODULES if plan.uart is not None else "")


def public_variables(plan: Plan) -> tuple[list[str], list[str]]:
    """The bench's variables that Python writes and those that it only reads: no others are made public.

    Whatever depends on a variable that may be written from outside is evaluated with every change of the clock. So
    Python writes registers of its own, and the bench copies them when it starts a run.
    """
    written = ["rst", "request", "deadline"]
    read = ["served", "cycle"]
    for source in plan.sources:
        written += [f"{source.name}_{part}" for part in ("ring", "limit", "refill", *_STALL_REGISTERS)]
        read.append(f"{source.name}_taken")
    for sink in plan.sinks:
        written += [f"{sink.name}_{part}" for part in ("base", "target", *_STALL_REGISTERS)]
        read += [f"{sink.name}_{part}" for part in ("ring", "given", "broken")]
    written += [f"in_{port.name}" for port in plan.inputs]
    for port in plan.outputs:
        written += [f"watch_{port.name}", f"watch_{port.name}_value"]
        read += [f"out_{port.name}", f"watch_{port.name}_hit"]
    return [f"host_{name}" for name in written], read + (["uart_errors"] if plan.uart is not None else [])


_STALL_REGISTERS = ("stall", "stall_seed", "stall_shift")


def _host_register(name: str, width: int, init: int = 0) -> Iterator[str]:
    """``host_NAME``, which Python writes, and ``NAME``, its copy since the start of the run."""
    yield f"  reg [{width - 1}:0] host_{name} = {init};"
    yield f"  reg [{width - 1}:0] {name} = {init};"
    yield f"  always @(posedge load) {name} <= host_{name};"


def _stall(name: str, salt: int) -> Iterator[str]:
    """Registers of the stall generator and ``NAME_pause``: 1 in ``stall``/256 of the cycles, in groups of 2**shift.

    A hash of the cycle number and the seed: no state, hence the same pauses however often the bench stood still.
    """
    yield from _host_register(f"{name}_stall", 9)
    yield from _host_register(f"{name}_stall_seed", 32)
    yield from _host_register(f"{name}_stall_shift", 4)
    yield (
        f"  wire [31:0] {name}_hash_a = (cycle[31:0] >> {name}_stall_shift) * {_STALL_MULTIPLIER}"
        f" ^ ({name}_stall_seed + 32'd{salt}) * {_STALL_FINALISER};"
    )
    yield f"  wire [31:0] {name}_hash_b = ({name}_hash_a ^ ({name}_hash_a >> 15)) * {_STALL_FINALISER};"
    yield f"  wire {name}_pause = {{1'b0, {name}_hash_b[31:24]}} < {name}_stall;"


def _source(source: Channel, salt: int) -> Iterator[str]:
    """Ring and handshake of one source: valid, once raised, holds with its payload until the transfer."""
    name, slot_bits, items = source.name, 8 * source.slot_bytes, source.ring_items
    yield f"  // Source {name}: {items} items of {source.width} bits."
    yield from _stall(name, salt)
    yield from _host_register(f"{name}_ring", slot_bits * items)
    yield from _host_register(f"{name}_limit", 32)  # items that Python has put into the ring so far
    yield from _host_register(f"{name}_refill", 1)  # stop when the ring is empty
    yield f"  reg [31:0] {name}_taken = 0;"
    yield f"  reg {name}_go = 1;"
    yield f"  wire {name}_ready;"
    yield f"  wire {name}_valid = {name}_go & ({name}_taken != {name}_limit);"
    position = f"({name}_taken & 32'd{items - 1}) * {slot_bits}"
    yield f"  wire [{source.width - 1}:0] {name}_item = {name}_ring[{position} +: {source.width}];"
    yield f"  wire [31:0] {name}_next = {name}_taken + {{31'd0, {name}_valid & {name}_ready}};"
    yield f"  wire {name}_stop = {name}_refill & ({name}_next == {name}_limit);"
    yield "  always @(posedge clk) begin"
    yield f"    {name}_taken <= {name}_next;"
    yield f"    if (!{name}_valid | {name}_ready) {name}_go <= !{name}_pause;"
    yield "  end"
    if source.ready is None:
        yield f"  assign {name}_ready = 1'b1;"


def _sink(sink: Channel, salt: int) -> Iterator[str]:
    """Ring and handshake of one sink, and the check that the component keeps the stream rule."""
    name, slot_bits, items = sink.name, 8 * sink.slot_bytes, sink.ring_items
    yield f"  // Sink {name}: {items} items of {sink.width} bits."
    yield from _stall(name, salt)
    yield f"  reg [{slot_bits * items - 1}:0] {name}_ring = 0;"
    yield from _host_register(f"{name}_base", 32)  # items that Python has taken out of the ring so far
    yield from _host_register(f"{name}_target", 32)  # stop when this many items have come
    yield f"  reg [31:0] {name}_given = 0;"
    yield f"  reg {name}_broken = 0;"
    yield f"  reg {name}_go = 1;"
    yield f"  wire {name}_valid;"
    yield f"  wire [{sink.width - 1}:0] {name}_item;"
    yield f"  wire {name}_ready = {'1' if sink.ready is None else name + '_go'};"
    yield f"  wire {name}_take = {name}_valid & {name}_ready;"
    yield f"  wire [31:0] {name}_next = {name}_given + {{31'd0, {name}_take}};"
    yield f"  wire {name}_stop = ({name}_next == {name}_target) | ({name}_next - {name}_base == 32'd{items});"
    # A blocking assignment: nothing in the HDL reads the ring, and a non-blocking one would copy it whole.
    yield "  always @(posedge clk)"
    position = f"({name}_given & 32'd{items - 1}) * {slot_bits}"
    yield f"    if ({name}_take) {name}_ring[{position} +: {sink.width}] = {name}_item;"
    yield "  always @(posedge clk) begin"
    yield f"    {name}_given <= {name}_next;"
    yield f"    {name}_go <= !{name}_pause;"
    yield "  end"
    if sink.checked and sink.ready is not None:
        yield f"  reg {name}_held = 0;"
        yield f"  reg [{sink.width - 1}:0] {name}_last = 0;"
        yield "  always @(posedge clk) begin"
        yield f"    {name}_held <= {name}_valid & !{name}_ready & !rst;"
        yield f"    {name}_last <= {name}_item;"
        yield f"    if ({name}_held & !rst & (!{name}_valid | {name}_item != {name}_last)) {name}_broken <= 1;"
        yield "  end"


def _tap(sink: Channel) -> Iterator[str]:
    valid = [f"dut.{sink.valid}"]
    for index, port in enumerate(sink.changes):
        before = f"{sink.name}_before_{index}"
        yield f"  reg [{port.width - 1}:0] {before} = 0;"
        yield f"  always @(posedge clk) {before} <= dut.{port.name};"
        valid.append(f"dut.{port.name} != {before}")
    paths = [f"dut.{port.name}" if "." in port.name else port.name for port in reversed(sink.payload)]
    yield f"  assign {sink.name}_valid = {' | '.join(f'({each})' for each in valid)};"
    yield f"  assign {sink.name}_item = {{{', '.join(paths)}}};"


def _connections(channel: Channel) -> Iterator[str]:
    offset = 0
    for port in channel.payload if channel.valid else ():
        yield f".{port.name}({channel.name}_item[{offset} +: {port.width}])"
        offset += port.width
    if channel.valid:
        yield f".{channel.valid}({channel.name}_valid)"
    if channel.ready:
        yield f".{channel.ready}({channel.name}_ready)"


def _watch(port: Port) -> Iterator[str]:
    yield f"  wire [{port.width - 1}:0] out_{port.name};"
    yield from _host_register(f"watch_{port.name}", 1)
    yield from _host_register(f"watch_{port.name}_value", port.width)
    yield f"  reg watch_{port.name}_hit = 0;"
    yield f"  always @(posedge clk) watch_{port.name}_hit <= watch_{port.name}_stop;"
    yield f"  wire watch_{port.name}_stop = watch_{port.name} & (out_{port.name} == watch_{port.name}_value);"


def _uart_pins(uart: Uart) -> Iterator[str]:
    yield "  wire uart_rx, uart_tx;"
    yield "  reg [31:0] uart_errors = 0;"
    yield "  wire uart_error;"
    yield "  always @(posedge clk) if (uart_error) uart_errors <= uart_errors + 1;"
    yield (
        f"  bench_uart_sender #(.DIVISOR({uart.divisor})) sender(.clk(clk), .rst(rst), .pin(uart_rx),"
        " .valid(i_bytes_valid), .ready(i_bytes_ready), .byte_in(i_bytes_item));"
    )
    yield (
        f"  bench_uart_receiver #(.DIVISOR({uart.divisor})) receiver(.clk(clk), .rst(rst), .pin(uart_tx),"
        " .valid(o_bytes_valid), .byte_out(o_bytes_item), .error(uart_error));"
    )


_UART_MODULES = """
module bench_uart_sender #(parameter DIVISOR = 8)(input clk, input rst, output pin, input valid, output ready,
                                                  input [7:0] byte_in);
  reg [9:0] bits = 10'h3ff;
  reg [3:0] left = 0;
  reg [31:0] timer = 0;
  assign pin = bits[0];
  assign ready = left == 0 & !rst;
  always @(posedge clk)
    if (rst) begin
      bits <= 10'h3ff;
      left <= 0;
    end else if (valid & ready) begin
      bits <= {1'b1, byte_in, 1'b0};
      left <= 10;
      timer <= DIVISOR - 1;
    end else if (timer != 0) timer <= timer - 1;
    else if (left != 0) begin
      bits <= {1'b1, bits[9:1]};
      left <= left - 1;
      timer <= left == 1 ? 0 : DIVISOR - 1;
    end
endmodule

module bench_uart_receiver #(parameter DIVISOR = 8)(input clk, input rst, input pin, output reg valid,
                                                    output reg [7:0] byte_out, output reg error);
  reg [3:0] left = 0;  // bits still to sample, start and stop bit included
  reg [31:0] timer = 0;
  always @(posedge clk) begin
    valid <= 0;
    error <= 0;
    if (rst) left <= 0;
    else if (left == 0) begin
      if (!pin) begin
        left <= 10;
        timer <= (DIVISOR - 1) / 2;
      end
    end else if (timer != 0) timer <= timer - 1;
    else begin
      timer <= DIVISOR - 1;
      left <= left - 1;
      if (left == 10 & pin) left <= 0;                          // no start bit: a glitch
      else if (left == 1) begin
        valid <= pin;
        error <= !pin;
      end else if (left < 10) byte_out <= {pin, byte_out[7:1]};
    end
  end
endmodule
"""
