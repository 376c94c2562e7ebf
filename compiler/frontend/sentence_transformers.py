"""Reads pooling, prompts, lengths and score activations of sentence-transformers directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.frontend.checkpoint import Checkpoint, read_json, read_weights
from precast.compiler.models.spec import POOLING_MODES, Activation, DenseSpec, EmbedderSpec

_LEGACY_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Activation] = {
    "Tanh": "tanh",
    "Identity": "identity",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}


@dataclass(frozen=True, eq=False)
class SentenceModules:
    """The modules after the transformer.

    Attributes:
        embedder: pooling, dense layers and normalization.
        weights: weights of the dense layers, by parameter name.
    """

    embedder: EmbedderSpec
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class SentenceSettings:
    """Settings of texts and of similarity.

    Attributes:
        prompts: prompts by name.
        default_prompt_name: name of the prompt that is used by default; None for no prompt.
        similarity: name of the similarity function.
        max_seq_length: longest input in tokens; None if it is not set.
        do_lower_case: whether texts are converted to lower case.
    """

    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str
    max_seq_length: int | None
    do_lower_case: bool


def read_modules(checkpoint: Checkpoint) -> SentenceModules | None:
    """Return the modules after the transformer; None without ``modules.json`` or without pooling.

    Raises:
        UnsupportedConfigError: A module, a pooling mode or an activation is not supported.
    """
    listed = checkpoint.read_json("modules.json")
    if listed is None:
        return None
    pooling: dict[str, Any] | None = None
    dense: list[DenseSpec] = []
    weights: dict[str, Tensor] = {}
    normalize = False
    for module in listed[1:]:
        kind, folder = str(module["type"]).rsplit(".", 1)[-1], checkpoint.root / module.get("path", "")
        if normalize or (kind == "Pooling") == (pooling is not None):
            raise UnsupportedConfigError(
                f"modules.json lists {[m['type'] for m in listed]}; expected one Transformer, one Pooling, "
                f"any number of Dense, and optionally Normalize at the end"
            )
        if kind == "Pooling":
            pooling = read_json(folder / "config.json") or {}
        elif kind == "Dense":
            weights |= {f"head.dense.{len(dense)}.{name}": t for name, t in read_weights(folder).items()}
            dense.append(_dense(read_json(folder / "config.json") or {}))
        elif kind == "Normalize":
            normalize = True
        else:
            raise UnsupportedConfigError(f"modules.json contains {module['type']}, which is not supported")
    if pooling is None:
        return None
    return SentenceModules(
        EmbedderSpec(
            pooling_modes(pooling), bool(pooling.get("include_prompt", True)), tuple(dense), normalize
        ),
        weights,
    )


def pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the modes of a ``Pooling`` configuration, in order of concatenation.

    Raises:
        UnsupportedConfigError: There is no mode, or an unknown one.
    """
    named = config.get("pooling_mode")
    if named is None:
        modes = tuple(mode for flag, mode in _LEGACY_FLAGS.items() if config.get(flag))
    else:
        modes = (named,) if isinstance(named, str) else tuple(named)
    unknown = sorted(set(modes) - set(POOLING_MODES))
    if unknown or not modes:
        raise UnsupportedConfigError(f"pooling modes {unknown or 'none'}: expected some of {POOLING_MODES}")
    return modes


def _dense(config: dict[str, Any]) -> DenseSpec:
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if name not in _ACTIVATIONS:
        raise UnsupportedConfigError(f"Dense activation {name!r}: expected one of {sorted(_ACTIVATIONS)}")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedConfigError(f"Dense with {key}={config[key]!r} is not supported")
    return DenseSpec(
        config["in_features"], config["out_features"], bool(config.get("bias", True)), _ACTIVATIONS[name]
    )


def read_settings(checkpoint: Checkpoint) -> SentenceSettings:
    """Return prompts, similarity and length of a checkpoint, with defaults for what it does not set."""
    general = checkpoint.read_json("config_sentence_transformers.json") or {}
    transformer = _transformer_settings(checkpoint.path)
    prompts = {name: text for name, text in (general.get("prompts") or {}).items() if text is not None}
    return SentenceSettings(
        prompts=prompts,
        default_prompt_name=general.get("default_prompt_name"),
        similarity=general.get("similarity_fn_name") or "cosine",
        max_seq_length=transformer.get("max_seq_length"),
        do_lower_case=bool(transformer.get("do_lower_case", False)),
    )


def _transformer_settings(folder: Path) -> dict[str, Any]:
    for name in ("sentence_bert_config.json", "sentence_transformers_config.json"):
        settings = read_json(folder / name)
        if settings:
            return dict(settings)
    return {}


def is_cross_encoder(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint was saved by sentence-transformers' ``CrossEncoder``."""
    general = checkpoint.read_json("config_sentence_transformers.json") or {}
    config = checkpoint.config
    return (
        general.get("model_type") == "CrossEncoder"
        or hasattr(config, "sentence_transformers")
        or hasattr(config, "sbert_ce_default_activation_function")
    )


def score_activation(checkpoint: Checkpoint, labels: int) -> Literal["sigmoid", "identity"]:
    """Return the activation of ``CrossEncoder`` scores: the checkpoint's, or sigmoid for a single label.

    Raises:
        UnsupportedConfigError: The runtime does not support the activation.
    """
    general = checkpoint.read_json("config_sentence_transformers.json") or {}
    config = checkpoint.config
    named = (
        (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
        or getattr(config, "sbert_ce_default_activation_function", None)
        or general.get("activation_fn")
    )
    if named is None:
        return "sigmoid" if labels == 1 else "identity"
    name = str(named).rsplit(".", 1)[-1]
    if name == "Sigmoid":
        return "sigmoid"
    if name == "Identity":
        return "identity"
    raise UnsupportedConfigError(f"score activation {named!r}: expected Sigmoid or Identity")
