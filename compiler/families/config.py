"""Reading a Hugging Face configuration so that nothing in it is overlooked."""

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
"""HF's activation names. Its four spellings of the tanh form of GELU differ in rounding alone."""

# No influence on what a finished model answers.
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
    """A configuration that remembers what was asked of it.

    ``finish`` then refuses every value that differs from its class' default and that nobody asked
    for: such a value would change HF's answer and not ours.
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
        """Raises UnsupportedConfigError unless each named value is as given, or absent."""
        for name, value in expected.items():
            found = getattr(self, name)
            if found is not None and found != value:
                raise UnsupportedConfigError(
                    f"{self.source.model_type}: {name}={found!r} is not supported, only {value!r}"
                )

    def ignore(self, *names: str) -> None:
        """Values that matter only to a part of the model that is not compiled."""
        self._read.update(names)

    def activation(self, name: str) -> Activation:
        """The activation named by config value ``name``."""
        found = self.__getattr__(name)  # DistilBERT's is called ``activation``, as this method is
        if found not in ACTIVATIONS:
            raise UnsupportedConfigError(
                f"{self.source.model_type}: {name}={found!r} is not supported, only {sorted(ACTIVATIONS)}"
            )
        return ACTIVATIONS[found]

    def finish(self) -> None:
        """Raises UnsupportedConfigError: a value off its default was never looked at."""
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
        # A field of no class, yet HF's attention heeds it where a configuration carries it.
        if "is_causal" not in self._read and getattr(self.source, "is_causal", None):
            unread["is_causal"] = True
        if unread:
            raise UnsupportedConfigError(
                f"{self.source.model_type}: the configuration sets {unread}, which no module of this family "
                f"reads; the answers would differ from Hugging Face's"
            )
