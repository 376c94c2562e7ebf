"""Our own artifacts, through the runtime."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import precast
from precast.graphs.encode import EncodeLimits
from precast.tools.bench.peers.contender import OURS, Contender
from precast.tools.bench.peers.jobs import Job, Targets

if TYPE_CHECKING:
    import numpy as np

    from precast.artifacts.manifest import Manifest
    from precast.runtime.io.tokenization import TextTokenizer


def contender(artifact: Path, name: str, manifest: Manifest, threads: int) -> Contender:
    """An artifact as a contender.

    Args:
        artifact: its folder.
        name: in tables.
        manifest: of the artifact.
        threads: of its kernels.
    """
    make = Generating if manifest.output.kind == "generate" else Encoding
    return Contender(
        name, OURS, manifest.build.precision, partial(make, artifact, threads), ("torch", "precast.runtime")
    )


class Encoding:
    """``embed``, or ``encode`` where something else than embeddings is answered.

    Args:
        artifact: its folder.
        threads: of its kernels.
    """

    def __init__(self, artifact: Path, threads: int) -> None:
        self._artifact = artifact
        self._engine = precast.Encoder.load(artifact, num_threads=threads)
        self._kind = self._engine.manifest.output.kind
        self._per_token = self._engine.manifest.model.task in ("hidden", "token-classify")
        self._tokenizer: TextTokenizer | None = None

    def embed_ids(self, sequences: Sequence[list[int]]) -> np.ndarray:
        """The model alone."""
        return self._answers(list(sequences))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """From strings; no prompt is put before them, since not every peer would."""
        return self._answers(list(texts))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The runtime's tokenization, by an object of its own: the engine does not show its."""
        self._tokenizer = self._tokenizer or text_tokenizer(self._artifact, self._engine.manifest)
        return token_ids(self._tokenizer, texts)

    def _answers(self, inputs: list[Any]) -> np.ndarray:
        import numpy as np

        if self._kind == "embed":
            found: np.ndarray = self._engine.embed(inputs, prompt="")
            return found
        name = "hidden" if self._kind == "hidden" else "logits"
        arrays = [getattr(output, name) for output in self._engine.encode(inputs, prompt="")]
        return np.concatenate(arrays) if self._per_token else np.stack(arrays)


class Generating:
    """``Seq2Seq.generate`` of an artifact.

    Args:
        artifact: its folder.
        threads: of its kernels.
    """

    def __init__(self, artifact: Path, threads: int) -> None:
        self._engine = precast.Seq2Seq.load(artifact, num_threads=threads)

    def generate(self, job: Job) -> Targets:
        """The best target of each source."""
        answers = self._engine.generate(
            [list(source) for source in job.sources],
            min_new_tokens=job.new_tokens,
            max_new_tokens=job.new_tokens,
            num_beams=job.beams,
        )
        return [answer.token_ids[1:].tolist() for answer in answers]

    def first_token(self, job: Job) -> float | None:
        """``stream`` up to its first piece of text; None without a tokenizer, since nothing else streams."""
        if self._engine.manifest.tokenization.file is None:
            return None
        started = time.perf_counter()
        with self._engine.stream(
            list(job.sources[0]), min_new_tokens=job.new_tokens, max_new_tokens=job.new_tokens
        ) as pieces:
            next(iter(pieces), "")
            return time.perf_counter() - started


def text_tokenizer(artifact: Path, manifest: Manifest) -> TextTokenizer:
    """The tokenizer of an encoder's artifact."""
    from precast.runtime.io.tokenization import TextTokenizer, tokenizer_json
    from precast.runtime.options import DEFAULTS

    assert isinstance(manifest.limits, EncodeLimits)
    return TextTokenizer(
        tokenizer_json(artifact, manifest.tokenization),
        manifest.tokenization,
        vocab_size=manifest.model.vocab_size,
        max_length=manifest.limits.max_length,
        max_characters=DEFAULTS.max_characters,
    )


def token_ids(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text, cut where they are too long.

    Raises:
        InputError: a text that cannot be tokenized; it says which.
    """
    found = []
    for place, tokens in enumerate(tokenizer.encode(list(texts), True)):
        if isinstance(tokens, Exception):
            raise tokens.at(place)
        found.append(tokens.ids.tolist())
    return found
