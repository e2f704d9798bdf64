"""The machines that have a name."""

from __future__ import annotations

from dataclasses import replace

from emberline.arch.architecture import Architecture

_ULX3S = Architecture(
    name="ulx3s-85f",
    lanes_in=16,
    lanes_out=8,
    activation_depth_words=8192,
    weight_depth_words=1024,
    requantisers=8,
    adders=2,
    clock_hz=130_000_000,
    uart_baud=1_000_000,
    board="ulx3s-85f",
    family="ecp5",
)

_ULX3S_FLASH = replace(
    _ULX3S,
    name="ulx3s-85f-flash",
    activation_depth_words=10240,
    weight_depth_words=1536,
    program_depth_words=6144,
    weight_word_cycles=8,
    board="ulx3s-85f-flash",
)
"""Its weights come from the configuration flash, at double rate 65 MB/s, and its memories hold what SqueezeNet v1.0
needs: 189 of 208 block memories."""

PRESETS: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _ULX3S,
        _ULX3S_FLASH,
        # A second flash beside the first one, 131 MB/s: for ZynqNet, whose last layers want two weights a cycle. Its
        # instructions need no pages.
        replace(
            _ULX3S_FLASH,
            name="ulx3s-85f-two-flashes",
            program_depth_words=8192,
            weight_word_cycles=4,
            clock_hz=131_250_000,
            board="ulx3s-85f-two-flashes",
        ),
        Architecture(
            name="max10-10m50",
            lanes_in=16,
            lanes_out=8,
            activation_depth_words=5120,
            weight_depth_words=768,
            program_depth_words=768,
            requantisers=8,
            adders=2,
            clock_hz=100_000_000,
            board="max10-10m50",
        ),
        # The same with weights from a flash, 50 MB/s, and with memories that hold what SqueezeNet v1.1 needs beside
        # them; its instructions come in pages.
        Architecture(
            name="max10-10m50-flash",
            lanes_in=16,
            lanes_out=8,
            activation_depth_words=7168,
            weight_depth_words=512,
            program_depth_words=1280,
            requantisers=8,
            adders=2,
            weight_word_cycles=8,
            clock_hz=100_000_000,
            board="max10-10m50-flash",
        ),
        # 64 multipliers for the lanes, two for each of two requantisers, four for the adder: an LFE5U-45F's 72.
        Architecture(
            name="ecp5-45f",
            lanes_in=16,
            lanes_out=4,
            activation_depth_words=4096,
            weight_depth_words=2048,
            requantisers=2,
            adders=1,
            clock_hz=100_000_000,
            board="ecp5-45f",
            family="ecp5",
        ),
        # For the simulation only: the ULX3S's engine with memories that hold SqueezeNet v1.0, ZynqNet and MobileNetV2
        # layer by layer.
        Architecture(
            name="large-16x8",
            lanes_in=16,
            lanes_out=8,
            activation_depth_words=131072,
            weight_depth_words=32768,
            program_depth_words=16384,
            requantisers=8,
            adders=2,
            clock_hz=100_000_000,
        ),
        Architecture(
            name="tiny-4x4",
            lanes_in=4,
            lanes_out=4,
            activation_depth_words=32768,
            weight_depth_words=8192,
            requantisers=1,
            clock_hz=48_000_000,
        ),
        # All of an iCE40UP5K's 128 KiB: 36 for activations, 92 for weights.
        Architecture(
            name="up5k-4x4",
            lanes_in=4,
            lanes_out=4,
            activation_depth_words=9216,
            weight_depth_words=5888,
            program_depth_words=512,
            requantisers=1,
            depthwise_columns=0,
            weight_cache_words=256,
            clock_hz=24_000_000,
            uart_baud=1_000_000,
            board="up5k-4x4",
            family="ice40",
        ),
        Architecture(
            name="small-8x8",
            lanes_in=8,
            lanes_out=8,
            activation_depth_words=16384,
            weight_depth_words=2048,
            requantisers=2,
            clock_hz=100_000_000,
        ),
    )
}


def preset(name: str) -> Architecture:
    """The preset called ``name``; ``ValueError`` lists the names if there is none."""
    if name not in PRESETS:
        raise ValueError(f"no architecture is called {name!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
