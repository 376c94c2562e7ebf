"""The stages in the order in which they run: the machine, correctness, then speed."""

from __future__ import annotations

from precast.tools.gpucheck.stage import Stage
from precast.tools.gpucheck.stages import (
    cold_start,
    compile,
    families,
    generation,
    generation_models,
    generation_profile,
    generation_speed,
    generation_start,
    kernels,
    latency,
    lower,
    machine,
    packed,
    peers,
    profile,
    replay,
    sanitizer,
    saturated,
    strings,
    tile_kernels,
    tiles,
)

STAGES: tuple[Stage, ...] = (
    machine.STAGE,
    lower.STAGE,
    compile.STAGE,
    kernels.STAGE,
    sanitizer.STAGE,
    families.STAGE,
    peers.STAGE,
    tile_kernels.STAGE,
    replay.STAGE,
    latency.STAGE,
    strings.STAGE,
    packed.STAGE,
    saturated.STAGE,
    cold_start.STAGE,
    profile.STAGE,
    tiles.STAGE,
)
"""Of encoders."""

GENERATION: tuple[Stage, ...] = (
    machine.STAGE,
    generation_models.STAGE,
    generation.STAGE,
    generation_speed.STAGE,
    generation_start.STAGE,
    generation_profile.STAGE,
)
"""The stages for encoder-decoders, a suite of their own because all stages would exceed one time budget."""
