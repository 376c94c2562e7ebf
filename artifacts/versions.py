"""Checks format versions, and derives the command that recompiles artifacts of other versions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_args

from precast.artifacts.build_info import BACKENDS
from precast.artifacts.errors import FormatVersionError
from precast.artifacts.manifest import FORMAT_VERSION
from precast.graphs.encode import Device, Dtype, Quantization, Task

_MAX_NAME = 200
"""Longest model name that an error message repeats."""
_LIMITS = {
    "max_length": "--max-length",
    "max_source_length": "--max-length",
    "max_tokens": "--max-tokens",
    "max_batch": "--max-batch",
    "max_target_length": "--max-target-length",
    "max_num_seqs": "--max-num-seqs",
    "max_rows": "--max-num-seqs",
}
"""Options by the limits that they set. ``max_rows`` is the name in version 1."""


def check_version(data: dict[str, Any], folder: Path | None = None) -> None:
    """Check the format version of a manifest.

    Args:
        data: The manifest as JSON.
        folder: The artifact; the command in the error message compiles to it.

    Raises:
        FormatVersionError: It is another version than ``FORMAT_VERSION``.
    """
    version = data.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        raise FormatVersionError(
            f"the artifact has format version {shortened(version)}, this runtime reads {FORMAT_VERSION}; "
            f"compile the same checkpoint again: `{compile_command(data, folder)}`"
        )


def compile_command(data: dict[str, Any], folder: Path | None = None) -> str:
    """Return the ``precast compile`` command that reproduces an artifact, as far as its manifest tells.

    The manifest may have any format version and was not validated: whatever it holds, the result is a single
    shell command, and its options have values that the compiler knows. Buckets that were fitted to a
    workload are not recovered, because the workload is not stored.

    Args:
        data: The manifest as JSON.
        folder: The artifact, which the command replaces; by default the output is ``OUT``.
    """
    name = _part(data, "model").get("name")
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= _MAX_NAME
        or not name.isprintable()
        or name[0] == "-"
    ):
        name = "MODEL"
    output = ["OUT"] if folder is None else [str(folder), "--overwrite"]
    return shlex.join(["precast", "compile", name, "-o", *output, *_options(data)])


def _options(data: dict[str, Any]) -> Iterator[str]:
    build = _part(data, "build")
    cross = _cross_device(build)
    yield from _choice("--task", _part(data, "model").get("task"), get_args(Task))
    if cross is None:
        yield from _choice("--device", build.get("device"), get_args(Device))
    else:
        yield from ("--device", cross)
    yield from _choice("--dtype", build.get("dtype"), get_args(Dtype))
    yield from _choice("--quantize", build.get("quantization"), get_args(Quantization))
    yield from _choice("--backend", build.get("backend"), BACKENDS)
    for limit, value in _part(data, "limits").items():
        if limit in _LIMITS and type(value) is int and 0 < value < 1 << 31:
            yield from (_LIMITS[limit], str(value))
    pooling = (_part(data, "output") or _part(data, "answer")).get("pooling")
    for mode in pooling if isinstance(pooling, list) and len(pooling) <= 8 else ():
        if isinstance(mode, str) and mode.isidentifier() and len(mode) <= 32:
            yield from ("--pooling", mode)
    settings = _part(build, "options")
    for setting in ("prepack", "autotune") if cross is None else ():
        if isinstance(settings.get(setting), bool):
            yield f"--{setting}" if settings[setting] else f"--no-{setting}"
    if cross is not None or ("parity" in data and data["parity"] is None):
        yield "--no-verify"


def _cross_device(build: dict[str, Any]) -> str | None:
    """Return a device like ``cuda:sm_90`` if the build was cross-compiled, which leaves kernels untuned."""
    capability = _part(build, "cuda").get("compute_capability")
    if _part(build, "options").get("tuned") is not False or not isinstance(capability, list):
        return None
    plausible = len(capability) == 2 and all(type(part) is int and 0 <= part <= 99 for part in capability)
    return f"cuda:sm_{capability[0]}{capability[1]}" if plausible else None


def _choice(option: str, value: object, known: tuple[str, ...]) -> tuple[str, ...]:
    return (option, value) if isinstance(value, str) and value in known else ()


def _part(data: dict[str, Any], key: str) -> dict[str, Any]:
    part = data.get(key)
    return part if isinstance(part, dict) else {}
