"""Rotary positions, and the kinds of layers that differ in them."""

from __future__ import annotations

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families.config import ConfigReader
from precast.compiler.models import spec

FULL = "full_attention"
SLIDING = "sliding_attention"

SCALED = ("linear", "llama3", "yarn")
"""HF's ways to scale the frequencies that depend on the configuration alone. The others ("dynamic",
"longrope") also depend on the length of the input, so that no table of frequencies states them."""


def layer_types(config: ConfigReader) -> tuple[str, ...]:
    """For each layer ``FULL`` or ``SLIDING``; anything else is refused."""
    types = tuple(config.layer_types)[: config.num_hidden_layers]
    if not set(types) <= {FULL, SLIDING}:
        raise UnsupportedConfigError(
            f"{config.source.model_type}: layer_types={sorted(set(types))} is not supported, "
            f"only {FULL!r} and {SLIDING!r}"
        )
    return types


def rotary(config: ConfigReader, head_dim: int, layer_type: str | None = None) -> spec.Rotary:
    """The frequencies that ``rope_parameters`` stand for, those of ``layer_type`` where it has several."""
    config.ignore("max_position_embeddings")  # rotary positions have no table that could end
    found = config.rope_parameters or {}
    if layer_type is not None:
        found = found.get(layer_type) or {}
    kind, partial = found.get("rope_type"), found.get("partial_rotary_factor", 1.0)
    if kind != "default" and kind not in SCALED:
        raise _refused(config, f"rope_type={kind!r}", f"only 'default' and {SCALED}")
    if partial != 1.0:
        raise _refused(config, f"partial_rotary_factor={partial!r}", "only 1.0")
    if kind == "default":
        inv_freq, scaling = _default_frequencies(found["rope_theta"], head_dim), 1.0
    else:
        inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](config.source, layer_type=layer_type)
    if 2 * len(inv_freq) != head_dim:
        raise _refused(config, f"head_dim={head_dim}", f"rope_parameters give {len(inv_freq)} pairs")
    return spec.Rotary(tuple(inv_freq.tolist()), float(scaling))


def _default_frequencies(theta: float, head_dim: int) -> torch.Tensor:
    """HF's expression, operation by operation: the last bit counts at far positions."""
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))


def _refused(config: ConfigReader, value: str, instead: str) -> UnsupportedConfigError:
    return UnsupportedConfigError(f"{config.source.model_type}: {value} is not supported, {instead}")
