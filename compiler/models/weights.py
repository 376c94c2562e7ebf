"""Source weights to the parameters of a module: every one used, every one filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from precast.compiler.errors import UnsetParameterError, UnusedWeightError, WeightValueError
from precast.compiler.families.family import WeightNames

_SHOWN = 8


@dataclass(frozen=True)
class Mapped:
    """Parameters by our names, and the source weights that were left out on purpose."""

    parameters: dict[str, Tensor]
    dropped: tuple[str, ...]


def strip_prefix(source: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Source weights without the prefix of full-model checkpoints, and with today's norm names."""
    renamed = {}
    for name, tensor in source.items():
        name = name.removeprefix(f"{prefix}.") if prefix else name
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if name.endswith(old):
                name = name.removesuffix(old) + new
        renamed[name] = tensor
    if len(renamed) != len(source):
        raise UnusedWeightError(
            f"the checkpoint holds the same weight with and without the prefix {prefix!r}"
        )
    return renamed


def with_tied(source: Mapping[str, Tensor], tied: Mapping[str, str]) -> dict[str, Tensor]:
    """``source`` with the weights of ``Family.tied`` under the names that the family reads."""
    names = {stored: name for name, stored in tied.items() if name not in source and stored in source}
    return {names.get(name, name): tensor for name, tensor in source.items()}


def map_weights(
    module: nn.Module, names: WeightNames, source: Mapping[str, Tensor], droppable: Iterable[str]
) -> Mapped:
    """Fill every parameter of ``module`` from ``source``.

    Raises:
        UnsetParameterError: parameters without a source; all of them are named.
        UnusedWeightError: source weights that no parameter took and no pattern drops.
        WeightValueError: a wrong shape, or a value that is not finite.
    """
    wanted = dict(module.named_parameters())
    unset = [name for name in wanted if not set(names.get(name, ("",))) <= source.keys()]
    if unset:
        missing = sorted({weight for name in unset for weight in names.get(name, ())} - source.keys())
        raise UnsetParameterError(
            f"{len(unset)} parameters have no weights in the checkpoint: {_some(unset)} "
            f"(looked for {_some(missing)})"
        )
    taken = {weight for name in wanted for weight in names[name]}
    unused = sorted(source.keys() - taken)
    patterns = tuple(droppable)
    leftover = [name for name in unused if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if leftover:
        raise UnusedWeightError(
            f"{len(leftover)} weights of the checkpoint would go unused: {_some(leftover)}; "
            f"the model is not what its configuration says, or its family file lacks them"
        )
    parameters = {name: _joined(name, wanted[name], [source[w] for w in names[name]]) for name in wanted}
    return Mapped(parameters, tuple(unused))


def _joined(name: str, parameter: Tensor, parts: list[Tensor]) -> Tensor:
    for part in parts:
        if not part.is_floating_point():
            raise WeightValueError(f"{name}: expected floating point weights, found {part.dtype}")
    try:
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    except RuntimeError as error:
        raise WeightValueError(f"{name}: its parts {[tuple(p.shape) for p in parts]} do not join") from error
    if joined.shape != parameter.shape:
        raise WeightValueError(
            f"{name}: the configuration asks for shape {tuple(parameter.shape)}, found {tuple(joined.shape)}"
        )
    if not torch.isfinite(joined).all():
        raise WeightValueError(f"{name}: the checkpoint's weights hold NaN or infinity")
    return joined


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
