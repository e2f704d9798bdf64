"""From a target's name to its transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from emberline.arch.architecture import Architecture
from emberline.arch.packets import PAYLOAD_LIMIT
from emberline.arch.presets import preset
from emberline.driver.protocol import LinkSettings
from emberline.driver.transport import Transport
from emberline.errors import DeviceError

DEFAULT_PRESET = "ulx3s-85f"
DEFAULT_BAUD = 1_000_000
BITS_PER_BYTE = 10
"""On a serial line, start and stop bit included."""

SIMULATED_TIMEOUT_S = 0.005
"""On the simulated board's clock."""


@dataclass(frozen=True)
class Target:
    """An open byte stream to a machine.

    Parameters:
        name: for messages.
        architecture: that is expected, if any.
        settings: of the link.
        write_flash: puts bytes into the board's flash, from a byte of it on, where that can be done from here.
        take_tapped: of a simulation that was asked to tell, what there was to tell since the last call: the groups
            written to the activation buffer, each ``lanes_out`` bytes and its address in as many bytes as addresses
            need, little endian; or what happened to frames (`emberline.simulation.frame_events`).
    """

    name: str
    transport: Transport
    architecture: Architecture | None
    settings: LinkSettings
    write_flash: Callable[[int, bytes], None] | None = None
    take_tapped: Callable[[], bytes] | None = None


def open_target(
    target: str,
    architecture: Architecture | None,
    *,
    link: Literal["bytes", "uart"] = "bytes",
    settings: LinkSettings | None = None,
    flash_bytes: int = 0,
    tap: Literal["writes", "frames"] | None = None,
) -> Target:
    """Open ``rtl``, ``emulator`` or a serial port. See `emberline.driver.device.Device.open`.

    Parameters: ``tap`` makes the simulation tell (`Target.take_tapped`) what it writes, or when frames come and go.
    """
    if target == "emulator":
        from emberline.driver.emulated_board import EmulatedBoard

        architecture = architecture or preset(DEFAULT_PRESET)
        board = EmulatedBoard(architecture)
        return Target("emulator", board, architecture, settings or LinkSettings(), board.write_flash)
    if target == "rtl":
        architecture = architecture or preset(DEFAULT_PRESET)
        return _open_simulation(architecture, link, settings, flash_bytes, tap)
    if link != "bytes":
        raise DeviceError(f"{target}: only the simulated board has a choice of links")
    from emberline.driver.serial_port import SerialPort

    baud = architecture.uart_baud if architecture else DEFAULT_BAUD
    return Target(target, SerialPort(target, baud), architecture, settings or _serial_settings(baud))


def _serial_settings(baud: int) -> LinkSettings:
    return LinkSettings(byte_s=BITS_PER_BYTE / baud)


def _open_simulation(
    architecture: Architecture,
    link: Literal["bytes", "uart"],
    settings: LinkSettings | None,
    flash_bytes: int,
    tap: Literal["writes", "frames"] | None,
) -> Target:
    """The simulated board; ``SimulationError`` where there is no simulator."""
    try:
        from emberline.simulation.board import simulate_architecture

        # A simulator has no vendor primitives; their generic twins are equal cycle by cycle.
        generic = replace(architecture, family="generic")
        board = simulate_architecture(generic, link=link, flash_bytes=flash_bytes, tap=tap)
    except ModuleNotFoundError as error:
        raise DeviceError(f"rtl: the simulation needs the package {error.name}: pip install 'emberline[sim]'") from None
    if settings is None and link == "uart":
        settings = _serial_settings(architecture.uart_baud)
    elif settings is None:
        byte_s = 2 / architecture.clock_hz
        settings = LinkSettings(timeout_s=SIMULATED_TIMEOUT_S, byte_s=byte_s, payload_bytes=PAYLOAD_LIMIT)
    write_flash = board.write_flash if architecture.fetches_from_flash else None
    return Target("rtl", board, architecture, settings, write_flash, board.take_tapped if tap else None)
