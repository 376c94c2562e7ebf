"""The Hugging Face model on the same device, which speeds are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
EAGER, SDPA, COMPILED = "HF eager", "HF sdpa", "HF torch.compile"


class Classifier:
    """A sequence classifier, in eager mode or compiled.

    Args:
        path: directory of the checkpoint.
        device: device to run on.
        dtype: dtype of the weights.
        attention: ``attn_implementation`` of transformers.
        compiled: use ``torch.compile(mode="reduce-overhead")``, which captures a CUDA graph for each shape.
    """

    def __init__(
        self, path: Path, device: str, dtype: str, attention: str = "eager", *, compiled: bool = False
    ) -> None:
        disable_progress_bar()
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=DTYPES[dtype], attn_implementation=attention, local_files_only=True
        )
        model = model.to(device).eval()
        self._device = device
        self._model = torch.compile(model, mode="reduce-overhead", dynamic=False) if compiled else model
        self._tokenizer: Any = None
        self._path = path

    @torch.inference_mode()
    def on_device(self, ids: np.ndarray) -> Callable[[], object]:
        """Return a function that runs the model on inputs that are on the device already."""
        given = torch.from_numpy(ids).to(self._device)

        @torch.inference_mode()
        def call() -> object:
            return self._model(input_ids=given).logits

        return call

    @torch.inference_mode()
    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Return the logits of token ids ``[B, S]``, including the transfers from and to the host."""
        logits: np.ndarray = (
            self._model(input_ids=torch.from_numpy(ids).to(self._device)).logits.float().cpu().numpy()
        )
        return logits

    @torch.inference_mode()
    def logits_of(self, texts: list[str]) -> np.ndarray:
        """Return the logits of texts, tokenized by the fast tokenizer and padded to the longest one."""
        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(self._path, local_files_only=True)
        inputs = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._device)
        logits: np.ndarray = self._model(**inputs).logits.float().cpu().numpy()
        return logits
