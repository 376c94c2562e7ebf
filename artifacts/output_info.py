"""The manifest's description of an artifact's outputs, one class for each kind of output."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from precast.artifacts.base import StrictModel
from precast.artifacts.generation_defaults import GenerationDefaults
from precast.graphs.sampling import MAX_VOCAB, MIN_VOCAB
from precast.graphs.seq2seq import KVCacheShape

MAX_LAYERS = 1024
"""Maximum number of decoder layers: a reader allocates two tensors for each."""
MAX_WIDTH = 1 << 16
"""Maximum number of heads of an attention layer, and maximum size of a head."""


class EmbedInfo(StrictModel):
    kind: Literal["embed"] = "embed"
    size: Annotated[int, Field(gt=0)]
    pooling: tuple[str, ...]
    include_prompt: bool
    normalize: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str


class ClassifyInfo(StrictModel):
    kind: Literal["classify"] = "classify"
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    activation: Literal["softmax", "sigmoid", "identity"]
    """Logits to scores in ``classify``: as HF's text-classification pipeline does."""
    score_activation: Literal["sigmoid", "identity"]
    """Logits to scores in ``predict`` and ``rank``: as sentence-transformers' CrossEncoder does."""


class HiddenInfo(StrictModel):
    kind: Literal["hidden"] = "hidden"
    size: Annotated[int, Field(gt=0)]


class GenerateInfo(StrictModel):
    kind: Literal["generate"] = "generate"
    size: Annotated[int, Field(gt=0)]
    """Size of the encoder's hidden states."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB, le=MAX_VOCAB)]
    """Vocabulary of the decoder's head; that of the sources, which may be another, is the model's."""
    self_kv: KVCacheShape
    """Shape of a self-attention KV slot."""
    cross_kv: KVCacheShape
    """Shape of a cross-attention KV slot."""
    defaults: GenerationDefaults

    @model_validator(mode="after")
    def _kv_caches_are_possible(self) -> GenerateInfo:
        for name, shape in (("self_kv", self.self_kv), ("cross_kv", self.cross_kv)):
            sizes = 0 < shape.layers <= MAX_LAYERS and all(
                0 < size <= MAX_WIDTH for size in (shape.heads, shape.head_dim)
            )
            if not sizes or shape.dtype not in ("float32", "bfloat16", "float16"):
                raise ValueError(
                    f"{name} needs up to {MAX_LAYERS} layers, up to {MAX_WIDTH} heads of up to {MAX_WIDTH} "
                    f"numbers, in float32, bfloat16 or float16, found {shape}"
                )
        if (self.self_kv.layers, self.self_kv.dtype) != (self.cross_kv.layers, self.cross_kv.dtype):
            raise ValueError(
                f"self_kv and cross_kv need the same layers and dtype, found {self.self_kv} and "
                f"{self.cross_kv}"
            )
        return self
