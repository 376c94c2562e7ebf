"""Hugging Face models in eager mode, in fp32 and bf16; fp32 is the reference of all comparisons."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from precast.tools.bench.peers.contender import REFERENCE, Contender, Subject
from precast.tools.bench.peers.jobs import Job, Targets
from precast.tools.bench.peers.padded import PaddedEngine, own_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch

Dtype = Literal["fp32", "bf16"]
NEEDS = ("torch", "transformers")


def contenders(subject: Subject) -> list[Contender]:
    """Return one contender for each dtype."""
    make: Callable[..., Any] = generation_engine if subject.task == "generate" else encoder_engine
    names: dict[Dtype, str] = {"fp32": REFERENCE, "bf16": "HF eager bf16"}
    return [
        Contender(name, "hf", dtype, partial(make, subject, dtype), NEEDS) for dtype, name in names.items()
    ]


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """Return the dtype of torch."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]


def encoder_engine(subject: Subject, dtype: Dtype, compile_with: str | None = None) -> PaddedEngine:
    """Return an engine around the model in eager mode or compiled by ``torch.compile``.

    Args:
        subject: the model to run.
        dtype: dtype of weights and computation.
        compile_with: backend of ``torch.compile``, with dynamic shapes; None for eager mode.
    """
    import torch

    from precast.tools.bench.peers.hf_model import HuggingFaceModel

    torch.set_num_threads(subject.threads)
    model: Any = HuggingFaceModel(subject, torch_dtype(dtype))
    if compile_with is not None:
        model = torch.compile(model, backend=compile_with, dynamic=True)

    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        output: np.ndarray = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return output

    return PaddedEngine(subject, run, own_tokenizer(subject))


def generation_engine(subject: Subject, dtype: Dtype) -> HuggingFaceGenerating:
    """Return an engine around ``generate``; a hub id is downloaded."""
    from precast.compiler.frontend.checkpoint import open_checkpoint

    path = open_checkpoint(subject.model).path
    return HuggingFaceGenerating(path, torch_dtype(dtype), subject.threads)


class HuggingFaceGenerating:
    """An engine around ``generate`` of transformers in eager mode, with its default attention.

    Args:
        checkpoint: directory of the checkpoint.
        dtype: dtype of weights and computation.
        threads: threads of torch.
    """

    def __init__(self, checkpoint: Path, dtype: torch.dtype, threads: int) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self._model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=dtype).eval()

    def generate(self, job: Job) -> Targets:
        """Return the best target of each source."""
        return [row[1:] for row in self._generate(job, None).tolist()]

    def first_token(self, job: Job) -> float | None:
        """Return the seconds until the first token; the streamer gets the start token before it."""
        clock = _Clock()
        started = time.perf_counter()
        self._generate(job, clock)
        return clock.moments[1] - started

    def _generate(self, job: Job, streamer: _Clock | None) -> torch.Tensor:
        import torch

        sources = torch.tensor(job.sources)  # sources have one length, so there is no padding
        with torch.inference_mode():
            tokens: torch.Tensor = self._model.generate(
                sources,
                attention_mask=torch.ones_like(sources),
                min_new_tokens=job.new_tokens,
                max_new_tokens=job.new_tokens,
                num_beams=job.beams,
                streamer=streamer,
            )
        return tokens


class _Clock:
    """A streamer that records when tokens arrive."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, _: Any) -> None:
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: no token is buffered."""
