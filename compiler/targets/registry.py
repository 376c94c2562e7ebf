"""The registry of targets, in order of preference. A target is a module of this package and a row here."""

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
    """The conditions under which a target is selected, and its module.

    The module is imported on selection, because its dependencies may be missing.

    Attributes:
        name: name of the target.
        device: device kind that the target compiles for.
        backend: backend that the target compiles with.
        module: dotted name of the module that defines ``TARGET``.
    """

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
    """Return the target of a name.

    Raises:
        KeyError: No target has this name.
        CompileError: A package that the target needs is not installed.
    """
    row = {row.name: row for row in TARGETS}[name]
    return cast(Target, import_module(row.module).TARGET)


def select_target(options: CompileOptions) -> Target:
    """Return the first target of the device and the backend that supports the options on this machine.

    Raises:
        CompileError: No target supports them; the message is about the most preferred one.
    """
    rows = [row for row in TARGETS if (row.device, row.backend) == (options.device_kind, options.backend)]
    if not rows:
        known = ", ".join(dict.fromkeys(f"{row.backend} on {row.device}" for row in TARGETS))
        raise CompileError(
            f"expected one of the backends {known}; found {options.backend!r} on {options.device_kind}"
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
    """Return the options that backends depend on."""
    return LoweringOptions(options.dtype, options.prepack, options.autotune, options.architecture)
