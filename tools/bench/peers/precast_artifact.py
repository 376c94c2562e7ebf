"""Precast artifacts as contenders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import precast
from precast.tools.bench.peers.contender import OURS, Contender
from precast.tools.bench.peers.jobs import Job, Targets

if TYPE_CHECKING:
    import numpy as np

    from precast.artifacts.manifest import Manifest
    from precast.runtime.io.tokenization import TextTokenizer


def contender(artifact: Path, name: str, manifest: Manifest, threads: int) -> Contender:
    """Return an artifact as a contender.

    Args:
        artifact: directory of the artifact.
        name: name in tables.
        manifest: manifest of the artifact.
        threads: threads of its kernels.
    """
    make = Generating if manifest.output.kind == "generate" else Encoding
    return Contender(
        name, OURS, manifest.build.precision, partial(make, artifact, threads), ("torch", "precast.runtime")
    )


class Encoding:
    """An engine around ``embed``, or around ``encode`` for tasks other than embeddings.

    Args:
        artifact: directory of the artifact.
        threads: threads of its kernels.
    """

    def __init__(self, artifact: Path, threads: int) -> None:
        self._artifact = artifact
        self._engine = precast.Encoder.load(artifact, num_threads=threads)
        self._kind = self._engine.manifest.output.kind
        self._per_token = self._engine.manifest.model.task in ("hidden", "token-classify")
        self._tokenizer: TextTokenizer | None = None

    def embed_ids(self, sequences: Sequence[list[int]]) -> np.ndarray:
        """Run the model on token ids."""
        return self._outputs(list(sequences))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenize texts without a prompt, which not every peer supports, and run the model."""
        return self._outputs(list(texts))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts with a tokenizer of its own: that of the engine is not public."""
        self._tokenizer = self._tokenizer or text_tokenizer(self._artifact, self._engine.manifest)
        return token_ids(self._tokenizer, texts)

    def _outputs(self, inputs: list[Any]) -> np.ndarray:
        import numpy as np

        if self._kind == "embed":
            embeddings: np.ndarray = self._engine.embed(inputs, prompt="")
            return embeddings
        name = "hidden" if self._kind == "hidden" else "logits"
        arrays = [getattr(output, name) for output in self._engine.encode(inputs, prompt="")]
        return np.concatenate(arrays) if self._per_token else np.stack(arrays)


class Generating:
    """An engine around ``Seq2Seq.generate``.

    Args:
        artifact: directory of the artifact.
        threads: threads of its kernels.
    """

    def __init__(self, artifact: Path, threads: int) -> None:
        self._engine = precast.Seq2Seq.load(artifact, num_threads=threads)

    def generate(self, job: Job) -> Targets:
        """Return the best target of each source."""
        outputs = self._engine.generate(
            [list(source) for source in job.sources],
            min_new_tokens=job.new_tokens,
            max_new_tokens=job.new_tokens,
            num_beams=job.beams,
        )
        return [output.token_ids[1:].tolist() for output in outputs]

    def first_token(self, job: Job) -> float | None:
        """Return the seconds until the first piece of ``stream``; None without a tokenizer."""
        if self._engine.manifest.tokenization.file is None:
            return None
        started = time.perf_counter()
        with self._engine.stream(
            list(job.sources[0]), min_new_tokens=job.new_tokens, max_new_tokens=job.new_tokens
        ) as pieces:
            next(iter(pieces), "")
            return time.perf_counter() - started


def text_tokenizer(artifact: Path, manifest: Manifest) -> TextTokenizer:
    """Return the tokenizer of an encoder artifact."""
    from precast.graphs.encode import EncodeLimits
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
    """Return the token ids of each text, truncated to the artifact's limit.

    Raises:
        InputError: a text cannot be tokenized; the message says which.
    """
    ids = []
    for index, tokens in enumerate(tokenizer.encode(list(texts), True)):
        if isinstance(tokens, Exception):
            raise tokens.at(index)
        ids.append(tokens.ids.tolist())
    return ids
