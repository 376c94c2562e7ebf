"""Rotary positions and layer types, from a configuration."""

from __future__ import annotations

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families.config import ConfigReader
from precast.compiler.models import spec

FULL = "full_attention"
SLIDING = "sliding_attention"

SCALED = ("linear", "llama3", "yarn")
"""HF's scalings of the frequencies that depend only on the configuration. The others ("dynamic",
"longrope") also depend on the length of the input, which a fixed table of frequencies cannot express."""


def layer_types(config: ConfigReader) -> tuple[str, ...]:
    """``FULL`` or ``SLIDING`` for each layer.

    Raises:
        UnsupportedConfigError: the configuration has another layer type.
    """
    types = tuple(config.layer_types)[: config.num_hidden_layers]
    if not set(types) <= {FULL, SLIDING}:
        raise UnsupportedConfigError(
            f"{config.source.model_type}: layer_types={sorted(set(types))} is not supported, "
            f"only {FULL!r} and {SLIDING!r}"
        )
    return types


def rotary(config: ConfigReader, head_dim: int, layer_type: str | None = None) -> spec.RotarySpec:
    """The frequencies that ``rope_parameters`` describe, for ``layer_type`` if they differ by layer type."""
    config.ignore("max_position_embeddings")  # rotary positions have no table, and so no end
    parameters = config.rope_parameters or {}
    if layer_type is not None:
        parameters = parameters.get(layer_type) or {}
    kind, partial = parameters.get("rope_type"), parameters.get("partial_rotary_factor", 1.0)
    if kind != "default" and kind not in SCALED:
        raise _unsupported(config, f"rope_type={kind!r}", f"only 'default' and {SCALED}")
    if partial != 1.0:
        raise _unsupported(config, f"partial_rotary_factor={partial!r}", "only 1.0")
    if kind == "default":
        inv_freq, scaling = _default_frequencies(parameters["rope_theta"], head_dim), 1.0
    else:
        inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](config.source, layer_type=layer_type)
    if 2 * len(inv_freq) != head_dim:
        raise _unsupported(config, f"head_dim={head_dim}", f"rope_parameters give {len(inv_freq)} pairs")
    return spec.RotarySpec(tuple(inv_freq.tolist()), float(scaling))


def _default_frequencies(theta: float, head_dim: int) -> torch.Tensor:
    """HF's expression, operation by operation: at distant positions the last bit matters."""
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))


def _unsupported(config: ConfigReader, value: str, expected: str) -> UnsupportedConfigError:
    return UnsupportedConfigError(f"{config.source.model_type}: {value} is not supported, {expected}")
