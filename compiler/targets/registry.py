"""All targets, in order of preference. A target is one module of this package and one row here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import cast

from precast.compiler.errors import CompileError
from precast.compiler.options import CompileOptions
from precast.compiler.targets.target import LoweringOptions, Target
from precast.graphs.encode import Device


@dataclass(frozen=True)
class TargetRow:
    """When a target is selected; its module is imported only then, because Triton may be missing."""

    name: str
    device: Device
    backend: str
    module: str


TARGETS = (
    TargetRow("cpu-avx512", "cpu", "inductor", "precast.compiler.targets.cpu_avx512"),
    TargetRow("cpu", "cpu", "inductor", "precast.compiler.targets.cpu"),
    TargetRow("cuda", "cuda", "inductor", "precast.compiler.targets.cuda"),
    TargetRow("reference", "cpu", "reference", "precast.compiler.targets.reference"),
)


def get_target(name: str) -> Target:
    """Return a target.

    Raises:
        KeyError: there is none of this name.
        CompileError: a package that it needs is not installed.
    """
    row = {row.name: row for row in TARGETS}[name]
    return cast(Target, import_module(row.module).TARGET)


def select_target(options: CompileOptions) -> Target:
    """Return the first target of the device and the backend that supports the options on this machine.

    Raises:
        CompileError: there is none; the reason is that of the preferred one.
    """
    rows = [row for row in TARGETS if (row.device, row.backend) == (options.device_kind, options.backend)]
    if not rows:
        known = ", ".join(f"backend {row.backend} on {row.device}" for row in TARGETS)
        raise CompileError(
            f"there is no backend {options.backend!r} for device {options.device_kind}; there are {known}"
        )
    reasons: list[CompileError] = []
    for row in rows:
        target = get_target(row.name)
        try:
            target.check(lowering_options(options), options.quantize)
            return target
        except CompileError as error:
            reasons.append(error)
    raise reasons[0]


def lowering_options(options: CompileOptions) -> LoweringOptions:
    """Return what backends read of the options."""
    return LoweringOptions(options.dtype, options.prepack, options.autotune, options.architecture)
