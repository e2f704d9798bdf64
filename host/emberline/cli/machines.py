"""What ``--arch``, ``--weights`` and ``--flash-rate`` mean together: which machine a network is compiled for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, TypeVar

from emberline.arch.layout import WORD_BYTES
from emberline.arch.presets import PRESETS
from emberline.cli import console
from emberline.errors import CompileError, EmberlineError

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.arch.program import Program
    from emberline.cli.networks import Network
    from emberline.compiler.network_plan import WeightPlace

Made = TypeVar("Made")


def weight_place(text: str) -> WeightPlace:
    """What ``--weights`` says."""
    from emberline.compiler.network_plan import WeightPlace

    try:
        return WeightPlace(text)
    except ValueError:
        raise EmberlineError(
            f"--weights is one of {', '.join(each.value for each in WeightPlace)}, not '{text}'"
        ) from None


def with_flash(architecture: Architecture, rate: float) -> Architecture:
    """The machine with a flash that gives so many megabytes a second, not more."""
    cycles = ceil(WORD_BYTES * architecture.clock_hz / (rate * 1e6)) if rate > 0 else 0
    if not 1 <= cycles <= 1024:
        raise EmberlineError(f"--flash-rate of {rate:g} MB/s is impossible at {architecture.clock_hz / 1e6:g} MHz")
    return replace(architecture, weight_source="flash", weight_word_cycles=cycles)


def weight_megabytes_per_second(architecture: Architecture) -> float | None:
    """At which weights come, stored as they are; ``None`` where none do."""
    cycles = architecture.weight_word_cycles
    return WORD_BYTES * architecture.clock_hz / cycles / 1e6 if cycles else None


def with_flash_source(architecture: Architecture, rate: float | None = None) -> Architecture:
    """A machine that fetches weights from a flash: this one, or else the preset ``PRESET-flash``, where there is one.

    With a ``rate`` any machine does, and its flash gives that.
    """
    if not architecture.fetches_from_flash:
        architecture = PRESETS.get(f"{architecture.name}-flash", architecture)
    return architecture if rate is None else with_flash(architecture, rate)


def on_machine(
    architecture: Architecture, place: WeightPlace, rate: float | None, make: Callable[[Architecture], Made]
) -> Made:
    """What ``make`` makes for the machine that has the weights where they shall be.

    Where they shall come from a source that ``architecture`` lacks, that is another machine; so it is with
    ``WeightPlace.AUTO`` where they do not fit. A remark on standard error says so. Raises what ``make`` raises.
    """
    from emberline.arch.link_rate import with_link_weights
    from emberline.compiler.network_plan import WeightPlace
    from emberline.compiler.streaming import WeightsDoNotFitError

    if place is WeightPlace.LINK:
        if rate is not None:
            raise EmberlineError("--weights link takes no --flash-rate: nothing is in a flash")
        return make(with_link_weights(architecture))
    if place is WeightPlace.RESIDENT or architecture.fetches_from_link:
        return make(architecture)
    other = with_flash_source(architecture, rate)
    if place is WeightPlace.FLASH or architecture.fetches_from_flash:
        return make(other)
    try:
        return make(architecture)
    except WeightsDoNotFitError as error:
        if other == architecture:
            raise
        console.note(f"{error}; instead, on '{other.name}' they are fetched from the flash")
        try:
            return make(other)
        except CompileError as another:
            raise CompileError(f"{error}; on '{other.name}', with weights from the flash, {another}") from None


def compile_for(
    network: Network,
    architecture: Architecture,
    place: WeightPlace,
    rate: float | None = None,
    flash_offset: int | None = None,
) -> Program:
    """A network's program; its architecture is the machine that was chosen (`on_machine`)."""
    return on_machine(architecture, place, rate, lambda machine: network.compile(machine, place, flash_offset))
