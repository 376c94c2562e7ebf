"""The manifest's account of what an artifact answers, a part for each kind of answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from precast.artifacts.base import StrictModel
from precast.artifacts.generation_defaults import GenerationDefaults
from precast.graphs.seq2seq import KVCacheShape

MAX_LAYERS = 1024
"""Of a decoder: signatures name two tensors for each, so that a reader allocates by this number."""
MAX_WIDTH = 1 << 16
"""Heads of an attention, and the size of one."""


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
    """Logits to scores in ``classify``: the rule of HF's text-classification pipeline."""
    score_activation: Literal["sigmoid", "identity"]
    """Logits to scores in ``predict`` and ``rank``: the rule of sentence-transformers' CrossEncoder."""


class HiddenInfo(StrictModel):
    kind: Literal["hidden"] = "hidden"
    size: Annotated[int, Field(gt=0)]


class GenerateInfo(StrictModel):
    kind: Literal["generate"] = "generate"
    size: Annotated[int, Field(gt=0)]
    """Of the encoder's hidden states."""
    vocab_size: Annotated[int, Field(gt=1, lt=1 << 31)]
    """Of the decoder's head; the sources' vocabulary, which may be another, is the model's."""
    self_kv: KVCacheShape
    """What a place of the self pools holds."""
    cross_kv: KVCacheShape
    defaults: GenerationDefaults

    @model_validator(mode="after")
    def _kv_caches_are_possible(self) -> GenerateInfo:
        for name, pool in (("self_kv", self.self_kv), ("cross_kv", self.cross_kv)):
            sizes = 0 < pool.layers <= MAX_LAYERS and all(
                0 < size <= MAX_WIDTH for size in (pool.heads, pool.head_dim)
            )
            if not sizes or pool.dtype not in ("float32", "bfloat16", "float16"):
                raise ValueError(
                    f"{name} needs up to {MAX_LAYERS} layers, up to {MAX_WIDTH} heads of up to {MAX_WIDTH} "
                    f"numbers, in float32, bfloat16 or float16, found {pool}"
                )
        if (self.self_kv.layers, self.self_kv.dtype) != (self.cross_kv.layers, self.cross_kv.dtype):
            raise ValueError(f"pools of different layers or dtypes: {self.self_kv} and {self.cross_kv}")
        return self
