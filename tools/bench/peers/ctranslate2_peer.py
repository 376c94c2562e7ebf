"""CTranslate2 in fp32 and int8: BERT-like encoders, and encoder-decoders."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precast.tools.bench.peers.contender import Contender, Precision, Subject, UnsupportedTask
from precast.tools.bench.peers.jobs import Job, Targets
from precast.tools.bench.peers.padded import PaddedEngine, bare_tokenizer

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("ctranslate2",)
ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")
"""Encoder model types that its converter supports."""
POOLING = ("mean", "cls")
"""Pooling modes written here: CTranslate2 returns hidden states, and pooling must not import torch."""
_PRECISIONS: tuple[tuple[Literal["float32", "int8"], Precision], ...] = (
    ("float32", "fp32"),
    ("int8", "int8"),
)


def contenders(subject: Subject) -> list[Contender]:
    """Return one contender for each precision; both load the same converted model."""
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
    """Convert the checkpoint unless it is converted already; return the directory."""
    folder = _folder(subject)
    if folder.is_dir():
        return folder
    from precast.compiler.frontend.checkpoint import open_checkpoint
    from precast.tools.bench.peers.ctranslate2_model import convert

    return convert(open_checkpoint(subject.model).path, folder)


def encoder_engine(subject: Subject, kind: str) -> PaddedEngine:
    """Return an engine around ``Encoder.forward_batch`` and pooling."""
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
    """An engine around ``Translator.translate_batch``, whose tokens are token ids in decimal.

    Args:
        folder: directory of a model written by ``ctranslate2_model.convert``.
        compute_type: ``float32`` or ``int8``.
        threads: threads of its operators.
    """

    def __init__(self, folder: Path, compute_type: str, threads: int) -> None:
        import ctranslate2

        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )

    def generate(self, job: Job) -> Targets:
        """Return the best target of each source."""
        results = self._translator.translate_batch(
            [[str(token) for token in source] for source in job.sources],
            beam_size=job.beams,
            min_decoding_length=job.new_tokens,
            max_decoding_length=job.new_tokens,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in results]

    def first_token(self, job: Job) -> float | None:
        """Return the seconds until the first token, measured by a callback that stops the search."""
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
        raise UnsupportedTask(f"it returns hidden states and has no head for {subject.task}")
    checkpoint = open_checkpoint(subject.model)
    if checkpoint.config.model_type not in ENCODERS:
        raise UnsupportedTask(f"its converter does not support the encoder {checkpoint.config.model_type}")
    modules = read_modules(checkpoint) if subject.task == "embed" else None
    if (modules and modules.embedder.dense) or not set(subject.pooling) <= set(POOLING):
        raise UnsupportedTask("it returns hidden states, and only mean and cls pooling are implemented here")


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
