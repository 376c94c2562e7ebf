"""The Hugging Face model with the pooling of the checkpoint, shared by eager, compiled and exported peers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceModules, read_modules
from precast.compiler.verify.oracle import TORCH_ACTIVATIONS, model_class
from precast.tools.bench.peers.contender import Subject


class HuggingFaceModel(nn.Module):
    """Maps padded token ids and their mask to the output of the artifact's task.

    Args:
        subject: the model to run.
        dtype: dtype of the weights; outputs are fp32.
    """

    def __init__(self, subject: Subject, dtype: torch.dtype) -> None:
        super().__init__()
        transformers.utils.logging.disable_progress_bar()
        checkpoint = open_checkpoint(subject.model)
        kind = model_class(checkpoint, subject.task)
        model = kind.from_pretrained(checkpoint.path, dtype=dtype).eval()
        both_halves = kind is transformers.AutoModel and checkpoint.config.is_encoder_decoder
        self.model = model.get_encoder() if both_halves else model
        self._subject = subject
        modules = read_modules(checkpoint) if subject.task == "embed" else None
        self.dense = nn.ModuleList(_dense(modules) if modules else [])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Any = self.model(input_ids=input_ids, attention_mask=attention_mask)
        if self._subject.task in ("classify", "rerank", "token-classify"):
            logits: Tensor = output.logits.float()
            return logits
        hidden: Tensor = output.last_hidden_state.float()
        if self._subject.task == "hidden":
            return hidden
        pooled = torch.cat([pool(mode, hidden, attention_mask) for mode in self._subject.pooling], dim=-1)
        for layer in self.dense:
            pooled = layer(pooled)
        return F.normalize(pooled, dim=-1) if self._subject.normalize else pooled


class _Dense(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self._activation = TORCH_ACTIVATIONS[activation]

    def forward(self, pooled: Tensor) -> Tensor:
        return self._activation(F.linear(pooled, self.weight, self.bias))


def _dense(modules: SentenceModules) -> list[nn.Module]:
    return [
        _Dense(
            modules.weights[f"head.dense.{index}.linear.weight"],
            modules.weights.get(f"head.dense.{index}.linear.bias"),
            dense.activation,
        )
        for index, dense in enumerate(modules.embedder.dense)
    ]


def pool(mode: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """Pool a padded batch as sentence-transformers does, and return ``[n, size]``.

    Args:
        mode: name of the pooling mode.
        hidden: hidden states, ``[n, length, size]``.
        mask: ``[n, length]``, one for real tokens and zero for padding on the right.
    """
    real = mask[..., None].to(hidden.dtype)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, last)[:, 0]
    if mode == "max":
        return hidden.masked_fill(real == 0, float("-inf")).amax(1)
    if mode == "mean":
        return (hidden * real).sum(1) / real.sum(1)
    if mode == "mean_sqrt_len_tokens":
        return (hidden * real).sum(1) / real.sum(1) ** 0.5
    weights = real * mask.cumsum(1)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1)
