"""CTranslate2, with weights in fp32 and int8: encoders like BERT, and encoder-decoders."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precast.tools.bench.peers.contender import UnsupportedTask, Contender, Precision, Subject
from precast.tools.bench.peers.jobs import Job, Targets
from precast.tools.bench.peers.padded import PaddedEngine, bare_tokenizer

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("ctranslate2",)
ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")
"""Encoders that its converter knows, by transformers' names."""
POOLING = ("mean", "cls")
"""It gives hidden states; what pools them here does so without torch."""
_PRECISIONS: tuple[tuple[Literal["float32", "int8"], Precision], ...] = (
    ("float32", "fp32"),
    ("int8", "int8"),
)


def contenders(subject: Subject) -> list[Contender]:
    """Both precisions; one file serves both."""
    generates = subject.task == "generate"
    if not generates:
        _check_encoder(subject)
    imports = ("ctranslate2",) if generates else ("ctranslate2", "tokenizers")
    return [
        Contender(
            f"CTranslate2 {precision}",
            "ctranslate2",
            precision,
            partial(_generating, subject, kind) if generates else partial(encoder_engine, subject, kind),
            imports,
            prepare=partial(prepare, subject),
        )
        for kind, precision in _PRECISIONS
    ]


def prepare(subject: Subject) -> Path:
    """Convert; what is there already is kept."""
    folder = _folder(subject)
    if folder.is_dir():
        return folder
    from precast.compiler.frontend.checkpoint import open_checkpoint
    from precast.tools.bench.peers.ctranslate2_model import convert

    return convert(open_checkpoint(subject.model).path, folder)


def encoder_engine(subject: Subject, kind: str) -> PaddedEngine:
    """``Encoder.forward_batch`` and pooling."""
    import ctranslate2
    import numpy as np

    encoder = ctranslate2.Encoder(
        str(_folder(subject)),
        device="cpu",
        compute_type=kind,
        inter_threads=1,
        intra_threads=subject.threads,
    )

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(1).astype(np.int32))
        hidden = np.array(encoder.forward_batch(given, lengths).last_hidden_state)
        return hidden if subject.task == "hidden" else _pooled(hidden, mask, subject)

    return PaddedEngine(subject, run, bare_tokenizer(subject))


class CTranslate2Generating:
    """``Translator.translate_batch``, whose tokens are the decimal numbers of ours.

    Args:
        folder: a model that ``convert`` of ``ctranslate2_model`` wrote.
        compute_type: ``float32``, ``int8``, ...
        threads: of its operators.
    """

    def __init__(self, folder: Path, compute_type: str, threads: int) -> None:
        import ctranslate2

        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )

    def generate(self, job: Job) -> Targets:
        """The best target of each source."""
        answers = self._translator.translate_batch(
            [[str(token) for token in source] for source in job.sources],
            beam_size=job.beams,
            min_decoding_length=job.new_tokens,
            max_decoding_length=job.new_tokens,
        )
        return [[int(token) for token in answer.hypotheses[0]] for answer in answers]

    def first_token(self, job: Job) -> float | None:
        """By its callback, which may also end the search."""
        moments: list[float] = []

        def first(_: object) -> bool:
            moments.append(time.perf_counter())
            return True

        started = time.perf_counter()
        self._translator.translate_batch(
            [[str(token) for token in job.sources[0]]],
            beam_size=1,
            max_decoding_length=job.new_tokens,
            callback=first,
        )
        return moments[0] - started


def _generating(subject: Subject, kind: str) -> CTranslate2Generating:
    return CTranslate2Generating(_folder(subject), kind, subject.threads)


def _check_encoder(subject: Subject) -> None:
    from precast.compiler.frontend.checkpoint import open_checkpoint
    from precast.compiler.frontend.sentence_transformers import read_modules

    if subject.task not in ("embed", "hidden"):
        raise UnsupportedTask(f"it gives hidden states and has no head for {subject.task}")
    checkpoint = open_checkpoint(subject.model)
    if checkpoint.config.model_type not in ENCODERS:
        raise UnsupportedTask(f"its converter knows no encoder {checkpoint.config.model_type}")
    modules = read_modules(checkpoint) if subject.task == "embed" else None
    if (modules and modules.embedder.dense) or not set(subject.pooling) <= set(POOLING):
        raise UnsupportedTask("it gives hidden states, and only mean and first-token pooling are written for it")


def _pooled(hidden: np.ndarray, mask: np.ndarray, subject: Subject) -> np.ndarray:
    import numpy as np

    real = mask[..., None].astype(np.float32)
    parts = {"mean": lambda: (hidden * real).sum(1) / real.sum(1), "cls": lambda: hidden[:, 0]}
    pooled = np.concatenate([parts[mode]() for mode in subject.pooling], axis=-1)
    if subject.normalize:
        pooled /= np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)
    return pooled


def _folder(subject: Subject) -> Path:
    return subject.folder / "ctranslate2"
