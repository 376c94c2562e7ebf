"""Who generates: precast, Hugging Face's ``generate`` and CTranslate2, from token ids to token ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

import precast


@dataclass(frozen=True)
class Job:
    """One call.

    Attributes:
        sources: token ids of each source.
        new_tokens: generated for each source; end tokens are forbidden until then.
        beams: 1 for greedy search.
    """

    sources: tuple[tuple[int, ...], ...]
    new_tokens: int
    beams: int


Targets: TypeAlias = list[list[int]]
"""Generated token ids of the best sequence of each source, the start token left out."""
Generator: TypeAlias = Callable[[Job], Targets]


def precast_generator(artifact: Path, threads: int) -> Generator:
    """``Seq2Seq.generate`` of an artifact.

    Args:
        artifact: its folder.
        threads: of its kernels.
    """
    engine = precast.load(artifact, num_threads=threads)

    def generate(job: Job) -> Targets:
        answers = engine.generate(
            [list(source) for source in job.sources],
            min_new_tokens=job.new_tokens,
            max_new_tokens=job.new_tokens,
            num_beams=job.beams,
        )
        return [answer.token_ids[1:].tolist() for answer in answers]

    return generate


def hugging_face(checkpoint: Path, dtype: torch.dtype, threads: int) -> Generator:
    """``generate`` of transformers, eager, with its own choice of attention.

    Args:
        checkpoint: its folder.
        dtype: of weights and computation.
        threads: of torch.
    """
    from transformers import AutoModelForSeq2SeqLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=dtype).eval()

    @torch.inference_mode()
    def generate(job: Job) -> Targets:
        sources = torch.tensor(job.sources)  # of one length: nothing is padded
        answers = model.generate(
            sources,
            attention_mask=torch.ones_like(sources),
            min_new_tokens=job.new_tokens,
            max_new_tokens=job.new_tokens,
            num_beams=job.beams,
        )
        return [row[1:] for row in answers.tolist()]

    return generate


def ctranslate2_generator(folder: Path, compute_type: str, threads: int) -> Generator:
    """``Translator.translate_batch`` of CTranslate2, whose tokens are the decimal numbers of ours.

    Args:
        folder: a model that ``convert`` of ``ctranslate2_model`` wrote.
        compute_type: ``float32``, ``int8``, ...
        threads: of its operators.
    """
    import ctranslate2

    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )

    def generate(job: Job) -> Targets:
        answers = translator.translate_batch(
            [[str(token) for token in source] for source in job.sources],
            beam_size=job.beams,
            min_decoding_length=job.new_tokens,
            max_decoding_length=job.new_tokens,
        )
        return [[int(token) for token in answer.hypotheses[0]] for answer in answers]

    return generate


def agreement(found: Targets, wanted: Targets) -> float:
    """The share of tokens that are equal, place by place."""
    pairs = [
        pair for ours, theirs in zip(found, wanted, strict=True) for pair in zip(ours, theirs, strict=True)
    ]
    return sum(ours == theirs for ours, theirs in pairs) / len(pairs)
