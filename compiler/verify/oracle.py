"""The reference outputs: Hugging Face's own model in fp32, on each input alone and without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import read_modules
from precast.compiler.models.spec import EmbedderSpec, ModelSpec
from precast.graphs.encode import Task

TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "identity": lambda x: x,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


class Oracle:
    """An encoder checkpoint loaded by transformers.

    Args:
        checkpoint: The checkpoint to load.
        spec: Description of the same checkpoint; its task and, for embeddings, its pooling are applied.
    """

    name = f"transformers {transformers.__version__}, fp32, each input alone"

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec) -> None:
        self._task = spec.task
        self._head = spec.head
        kind = model_class(checkpoint, spec.task)
        has_decoder = kind is AutoModel and checkpoint.config.is_encoder_decoder
        transformers.utils.logging.disable_progress_bar()
        with torch.no_grad():
            model: PreTrainedModel = kind.from_pretrained(
                checkpoint.path, dtype=torch.float32, local_files_only=True
            ).eval()
        self._model = model.get_encoder() if has_decoder else model
        modules = read_modules(checkpoint) if spec.task == "embed" else None
        self._dense = modules.weights if modules else {}

    def outputs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one fp32 tensor for each sequence of token ids, shaped like the runtime's output for it."""
        with torch.no_grad():
            return [self._output(torch.tensor([list(sequence)])) for sequence in sequences]

    def _output(self, ids: Tensor) -> Tensor:
        if self._task in ("classify", "rerank", "token-classify"):
            logits: Tensor = self._model(ids).logits[0]
            return logits
        hidden: Tensor = self._model(ids).last_hidden_state[0]
        if not isinstance(self._head, EmbedderSpec):
            return hidden
        pooled = torch.cat([_pool(mode, hidden) for mode in self._head.pooling])
        for index, dense in enumerate(self._head.dense):
            weight = self._dense[f"head.dense.{index}.linear.weight"].float()
            bias = self._dense.get(f"head.dense.{index}.linear.bias")
            pooled = F.linear(pooled, weight, None if bias is None else bias.float())
            pooled = TORCH_ACTIVATIONS[dense.activation](pooled)
        return F.normalize(pooled, dim=0) if self._head.normalize else pooled


def model_class(checkpoint: Checkpoint, task: Task) -> Any:
    """Return the transformers class that computes ``task`` for a checkpoint."""
    if task in ("classify", "rerank"):
        return AutoModelForSequenceClassification
    if task == "token-classify":
        return AutoModelForTokenClassification
    # AutoModel loads encoder and decoder of T5; models like BART have no class for the encoder alone.
    text_encoders = transformers.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING
    return AutoModelForTextEncoding if type(checkpoint.config) in text_encoders else AutoModel


def _pool(mode: str, hidden: Tensor) -> Tensor:
    """Pool one unpadded sequence ``[n, size]`` to ``[size]``, as sentence-transformers does."""
    count = hidden.shape[0]
    if mode == "cls":
        return hidden[0]
    if mode == "lasttoken":
        return hidden[-1]
    if mode == "max":
        return hidden.max(dim=0).values
    if mode == "mean":
        return hidden.mean(dim=0)
    if mode == "mean_sqrt_len_tokens":
        return hidden.sum(dim=0) / count**0.5
    position = torch.arange(1, count + 1, dtype=hidden.dtype)[:, None]
    return (hidden * position).sum(dim=0) / position.sum()
