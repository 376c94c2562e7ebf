"""Maps the weights of a checkpoint to the parameters of a module; none may be missing or unused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from precast.compiler.errors import UnsetParameterError, UnusedWeightError, WeightValueError
from precast.compiler.families.family import WeightNames

_MAX_NAMES = 8
"""Names that an error message lists."""


@dataclass(frozen=True, eq=False)
class MappedWeights:
    """The parameters of a module, and the source weights that were dropped on purpose."""

    parameters: dict[str, Tensor]
    dropped: tuple[str, ...]


def canonical_names(source: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Rename source weights: without the prefix, and norms with ``weight`` and ``bias`` (not gamma and beta).

    Args:
        source: weights of a checkpoint.
        prefix: of checkpoints with a head, without the dot.

    Raises:
        UnusedWeightError: two weights get the same name.
    """
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
    """``source`` with the stored weight of each tied pair under the name that the family reads."""
    names = {stored: name for name, stored in tied.items() if name not in source and stored in source}
    return {names.get(name, name): tensor for name, tensor in source.items()}


def map_weights(
    module: nn.Module, names: WeightNames, source: Mapping[str, Tensor], droppable: Iterable[str]
) -> MappedWeights:
    """Map ``source`` to the parameters of ``module``.

    Args:
        module: whose parameters are wanted, on any device.
        names: the source weights of each parameter.
        source: weights under canonical names.
        droppable: patterns (fnmatch) of weights that may stay unused.

    Raises:
        UnsetParameterError: parameters without a source; all of them are named.
        UnusedWeightError: source weights that no parameter uses and no pattern matches.
        WeightValueError: a wrong shape, or a value that is not finite.
    """
    wanted = dict(module.named_parameters())
    unset = [name for name in wanted if not set(names.get(name, ("",))) <= source.keys()]
    if unset:
        missing = sorted({weight for name in unset for weight in names.get(name, ())} - source.keys())
        raise UnsetParameterError(
            f"{len(unset)} parameters have no weights in the checkpoint: {_listed(unset)} "
            f"(missing are {_listed(missing)})"
        )
    used = {weight for name in wanted for weight in names[name]}
    unused = sorted(source.keys() - used)
    patterns = tuple(droppable)
    unexpected = [name for name in unused if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if unexpected:
        raise UnusedWeightError(
            f"{len(unexpected)} weights of the checkpoint would be unused: {_listed(unexpected)}; "
            f"the model does not match its configuration, or its family file lacks them"
        )
    parameters = {name: _joined(name, wanted[name], [source[w] for w in names[name]]) for name in wanted}
    return MappedWeights(parameters, tuple(unused))


def _joined(name: str, parameter: Tensor, parts: list[Tensor]) -> Tensor:
    for part in parts:
        if not part.is_floating_point():
            raise WeightValueError(f"{name}: expected floating point weights, found {part.dtype}")
    try:
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    except RuntimeError as error:
        shapes = [tuple(part.shape) for part in parts]
        raise WeightValueError(f"{name}: parts of shapes {shapes} cannot be concatenated") from error
    if joined.shape != parameter.shape:
        raise WeightValueError(
            f"{name}: expected shape {tuple(parameter.shape)}, found {tuple(joined.shape)}"
        )
    if not torch.isfinite(joined).all():
        raise WeightValueError(f"{name}: the checkpoint's weights contain NaN or infinity")
    return joined


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
