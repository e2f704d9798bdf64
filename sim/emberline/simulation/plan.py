"""What the test bench of a component consists of: which ports are streams, which are driven and which are read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amaranth.lib import wiring

RING_BYTES = 1024


@dataclass(frozen=True)
class Port:
    """One port of the component as it is called in Verilog."""

    name: str
    width: int


@dataclass(frozen=True)
class Channel:
    """Items that enter or leave the component: a stream, a write port without back-pressure, or a tap's.

    Parameters:
        name: what the bench calls it.
        payload: the ports that make up an item, least significant first.
        valid, ready: port names, a tap's with their path; ``ready`` is ``None`` where every item is taken at once.
        checked: whether the bench watches that the component holds valid and payload until the transfer.
        changes: a tap's signals whose changes are items too.
    """

    name: str
    payload: tuple[Port, ...]
    valid: str
    ready: str | None
    checked: bool = True
    changes: tuple[Port, ...] = ()

    @property
    def is_tap(self) -> bool:
        """Whether its signals are no ports, but lie inside the component."""
        return "." in self.valid

    @property
    def width(self) -> int:
        return sum(port.width for port in self.payload)

    @property
    def slot_bytes(self) -> int:
        """Bytes that an item takes in the ring."""
        return max(1, -(-self.width // 8))

    @property
    def ring_items(self) -> int:
        """Items in the ring, a power of two."""
        return 1 << max(0, (RING_BYTES // self.slot_bytes).bit_length() - 1)


@dataclass(frozen=True)
class WritePort:
    """Input ports that together take one item in each cycle in which ``enable`` is 1, such as a memory's write port."""

    payload: tuple[str, ...]
    enable: str


@dataclass(frozen=True)
class Tap:
    """Signals inside the component, by their paths in Verilog: an item in each cycle in which ``valid`` is 1.

    Parameters:
        payload: path and width of each signal, least significant first; a path is ``submodule.signal``, or ``cycle``
            for the bench's own count of cycles.
        changes: path and width of signals: an item also in each cycle in which one is not what it was before.
    """

    payload: tuple[tuple[str, int], ...]
    valid: str
    changes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Uart:
    """Pins that the bench drives with 8N1 characters: bytes in through ``rx``, bytes out through ``tx``."""

    divisor: int
    rx: str = "rx"
    tx: str = "tx"

    def __post_init__(self) -> None:
        if self.divisor < 2:
            raise ValueError(f"divisor must be at least 2 cycles per bit, not {self.divisor}")


@dataclass(frozen=True)
class Plan:
    """What the bench of one component consists of; as JSON it tells the Python side what there is."""

    sources: tuple[Channel, ...]
    sinks: tuple[Channel, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    uart: Uart | None = None

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict) -> Plan:
        def channels(items: list[dict]) -> tuple[Channel, ...]:
            return tuple(
                Channel(**{**item, "payload": ports(item["payload"]), "changes": ports(item["changes"])})
                for item in items
            )

        def ports(items: list[dict]) -> tuple[Port, ...]:
            return tuple(Port(**item) for item in items)

        return cls(
            sources=channels(record["sources"]),
            sinks=channels(record["sinks"]),
            inputs=ports(record["inputs"]),
            outputs=ports(record["outputs"]),
            uart=Uart(**record["uart"]) if record["uart"] else None,
        )


def plan_bench(
    component: wiring.Component,
    *,
    write_ports: dict[str, WritePort] | None = None,
    uart: Uart | None = None,
    taps: dict[str, Tap] | None = None,
) -> Plan:
    """Read a component's signature: streams become sources and sinks, what is left inputs and outputs.

    With ``uart``, its two pins become the source ``i_bytes`` and the sink ``o_bytes``; taps become sinks.
    """
    inputs, outputs, sources, sinks = _scan(component)
    for name, write_port in (write_ports or {}).items():
        payload = tuple(Port(port, _take(inputs, port, name)) for port in write_port.payload)
        _take(inputs, write_port.enable, name)
        sources.append(Channel(name, payload, write_port.enable, None))
    if uart is not None:
        _take(inputs, uart.rx, "uart")
        _take(outputs, uart.tx, "uart")
        byte = (Port("byte", 8),)
        sources.append(Channel("i_bytes", byte, "", "", checked=False))
        sinks.append(Channel("o_bytes", byte, "", None, checked=False))
    for name, tap in (taps or {}).items():
        payload, changes = (tuple(Port(*each) for each in signals) for signals in (tap.payload, tap.changes))
        sinks.append(Channel(name, payload, tap.valid, None, checked=False, changes=changes))
    names = [channel.name for channel in (*sources, *sinks)]
    if len(set(names)) < len(names):
        raise ValueError(f"two streams of the bench have the same name: {sorted(names)}")
    return Plan(
        tuple(sources),
        tuple(sinks),
        tuple(Port(name, width) for name, width in inputs.items()),
        tuple(Port(name, width) for name, width in outputs.items()),
        uart,
    )


def _take(ports: dict[str, int], name: str, owner: str) -> int:
    if name not in ports:
        raise ValueError(f"'{owner}' wants port '{name}', which the component does not have (it has {list(ports)})")
    return ports.pop(name)


def _scan(component: wiring.Component) -> tuple[dict[str, int], dict[str, int], list[Channel], list[Channel]]:
    """The component's plain inputs and outputs by Verilog name, and its streams in and out."""
    from amaranth.hdl import Const, Value
    from amaranth.lib import wiring

    widths: dict[wiring.Flow, dict[str, int]] = {wiring.In: {}, wiring.Out: {}}
    constants: set[str] = set()
    for path, member, value in component.signature.flatten(component):
        name = "__".join(map(str, path))
        if isinstance(value, Const):
            constants.add(name)
        elif width := len(Value.cast(value)):
            widths[member.flow][name] = width

    def extract_streams(forward: dict[str, int], backward: dict[str, int]) -> list[Channel]:
        streams = []
        for name in [port.removesuffix("__valid") for port in forward if port.endswith("__valid")]:
            payload, ready = f"{name}__payload", f"{name}__ready"
            if payload in forward and (ready in backward or ready in constants):
                has_ready = backward.pop(ready, 0) > 0
                del forward[f"{name}__valid"]
                port = Port(payload, forward.pop(payload))
                streams.append(Channel(name, (port,), f"{name}__valid", ready if has_ready else None))
        return streams

    inputs, outputs = widths[wiring.In], widths[wiring.Out]
    return inputs, outputs, extract_streams(inputs, outputs), extract_streams(outputs, inputs)
