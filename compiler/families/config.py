"""Reads Hugging Face configurations and rejects values that no module implements."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.models.spec import Activation

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
"""HF's activation names. Its four variants of the tanh approximation of GELU differ only in rounding."""

# Values without influence on a trained model's output.
_TRAINING_ONLY = frozenset(
    {
        "use_cache", "tie_word_embeddings", "pretraining_tp", "initializer_range", "initializer_factor",
        "initializer_cutoff_factor", "gradient_checkpointing", "mask_token_id", "sep_token_id",
        "cls_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
        "classifier_dropout", "sparse_prediction", "sparse_pred_ignore_index",
        "deterministic_flash_attn",
    }
)  # fmt: skip


class ConfigReader:
    """A configuration that records which of its values were read.

    ``finish`` rejects values that differ from their class's default and were never read: they would change
    HF's output, but not that of the compiled model.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        if getattr(config, "is_heterogeneous", False):
            raise UnsupportedConfigError(
                f"{config.model_type}: per_layer_config is not supported; all layers share their values"
            )
        self.source = config
        self._read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        return getattr(self.source, name, None)

    def require(self, **expected: Any) -> None:
        """Check values against the only ones that are supported; an absent value passes.

        Raises:
            UnsupportedConfigError: a value differs.
        """
        for name, supported in expected.items():
            value = getattr(self, name)
            if value is not None and value != supported:
                raise UnsupportedConfigError(
                    f"{self.source.model_type}: {name}={value!r} is not supported, only {supported!r}"
                )

    def ignore(self, *names: str) -> None:
        """Mark values as read that have no influence on the compiled part of the model."""
        self._read.update(names)

    def activation(self, name: str) -> Activation:
        """The activation that the configuration's field ``name`` selects.

        Raises:
            UnsupportedConfigError: an unknown activation.
        """
        value = self.__getattr__(name)  # DistilBERT's field has the name of this method
        if value not in ACTIVATIONS:
            raise UnsupportedConfigError(
                f"{self.source.model_type}: {name}={value!r} is not supported, only {sorted(ACTIVATIONS)}"
            )
        return ACTIVATIONS[value]

    def finish(self) -> None:
        """Check that every value other than a default has been read.

        Raises:
            UnsupportedConfigError: some were not; all of them are named.
        """
        generic = {field.name for field in fields(PreTrainedConfig)}
        default = type(self.source)()
        unread = {
            field.name: getattr(self.source, field.name, None)
            for field in fields(self.source)
            if field.name not in generic | self._read | _TRAINING_ONLY
            and "dropout" not in field.name
            and "dropout" not in self.source.attribute_map.get(field.name, "")
            and getattr(self.source, field.name, None) != getattr(default, field.name, None)
        }
        # Not a field of any class, but HF's attention reads it if a configuration has it.
        if "is_causal" not in self._read and getattr(self.source, "is_causal", None):
            unread["is_causal"] = True
        if unread:
            raise UnsupportedConfigError(
                f"{self.source.model_type}: the configuration sets {unread}, which this family does not "
                f"implement; outputs would differ from Hugging Face's"
            )
