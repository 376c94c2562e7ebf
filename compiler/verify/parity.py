"""Holding an artifact against Hugging Face, through the very runtime that will serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import AutoTokenizer

from precast.artifacts.manifest import BuildInfo, Manifest, ParityInfo
from precast.artifacts.output_info import EmbedInfo
from precast.compiler.errors import ParityError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import read_settings
from precast.compiler.models.build import describe_model
from precast.compiler.verify.oracle import Oracle
from precast.runtime.encoder.engine import Encoder
from precast.runtime.io.outputs import EncoderOutput

TEXTS = (
    "",
    "a",
    "Cast ahead of time, assembled on site.",
    "Ünïcödé, 東京, emoji 🙂 and\ttabs\n",
    "  spaces   around  ",
    "A longer sentence, with punctuation; numbers 1,234.5 and a word like antidisestablishmentarianism.",
)
_MAX_RANDOM = 128


@dataclass(frozen=True)
class Allowed:
    """Largest error relative to the largest expected magnitude; least cosine of any input's answer."""

    relative: float
    cosine: float


ALLOWED = {"fp32": Allowed(1e-4, 0.99999), "bf16": Allowed(0.1, 0.999), "fp16": Allowed(0.03, 0.9995)}
ALLOWED_QUANTIZED = {"int8": Allowed(0.3, 0.99)}


def allowed_for(build: BuildInfo) -> Allowed:
    """How far answers may be from HF's in fp32, by what they are computed with."""
    return ALLOWED[build.dtype] if build.quantization is None else ALLOWED_QUANTIZED[build.quantization]


def check_parity(engine: Encoder, checkpoint: Checkpoint) -> ParityInfo:
    """Compare the answers to drawn inputs, and the token ids of some texts.

    Raises:
        ParityError: an answer is further from HF's than the dtype explains, or a text is tokenized
            in another way.
    """
    manifest = engine.manifest
    _check_tokenizer(engine, checkpoint)
    sequences = random_sequences(manifest)
    output = manifest.output
    pooling = output.pooling if isinstance(output, EmbedInfo) else None
    oracle = Oracle(checkpoint, describe_model(checkpoint, manifest.model.task, pooling).spec)
    expected = [tensor.float().numpy() for tensor in oracle.answers(sequences)]
    found = [_answer(output) for output in engine.encode(sequences)]
    return judged(found, expected, oracle=Oracle.name, build=manifest.build, tokens=sum(map(len, sequences)))


def judged(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray], *, oracle: str, build: BuildInfo, tokens: int
) -> ParityInfo:
    """How far the answers are from the oracle's.

    Args:
        found: an answer for each input.
        expected: the oracle's.
        oracle: who it is, for people.
        build: of the artifact.
        tokens: that were compared.

    Raises:
        ParityError: further than dtype and quantization explain.
    """
    allowed = allowed_for(build)
    info = ParityInfo(
        oracle=oracle,
        inputs=len(found),
        tokens=tokens,
        allowed_relative_error=allowed.relative,
        allowed_cosine=allowed.cosine,
        **compare(found, expected),
    )
    if not (info.max_relative_error <= allowed.relative and info.min_cosine >= allowed.cosine):
        raise ParityError(
            f"the artifact does not answer as {oracle}: largest relative error "
            f"{info.max_relative_error:.2e} (allowed {allowed.relative:.0e}), least cosine "
            f"{info.min_cosine:.6f} (allowed {allowed.cosine}); nothing was written. Compare with "
            f"--backend reference, and please report it"
        )
    return info


def random_sequences(manifest: Manifest) -> list[list[int]]:
    """Token ids of drawn lengths: one, both sides of small buckets, the longest that is still quick."""
    longest = min(_max_length(manifest), _MAX_RANDOM)
    random = np.random.default_rng(0)
    lengths = [1, 2, 15, 16, 17, 31, 33, longest, *random.integers(1, longest + 1, size=8)]
    vocab = manifest.model.vocab_size
    return [random.integers(0, vocab, size=min(int(n), longest)).tolist() for n in lengths]


def _max_length(manifest: Manifest) -> int:
    """Tokens of one input of an encoder."""
    return manifest.limits.max_input_length


def compare(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, float]:
    """Errors of all answers together; NaN in one of them counts as infinitely wrong.

    BatchResult of fewer than 8 numbers have no cosine worth the name: it is 1 then.
    """
    worst = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(found, expected, strict=True))
    largest = max(float(np.abs(theirs).max()) for theirs in expected)
    cosines = [_cosine(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]
    finite = all(bool(np.isfinite(ours).all()) for ours in found)
    return {
        "max_abs_error": worst if finite else float("inf"),
        "max_relative_error": worst / max(largest, 1e-12) if finite else float("inf"),
        "min_cosine": min(cosines) if finite else -1.0,
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.size < 8:
        return 1.0
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _answer(output: EncoderOutput) -> np.ndarray:
    for array in (output.embedding, output.logits, output.hidden):
        if array is not None:
            return array
    raise AssertionError("an answer without an array")


def _check_tokenizer(engine: Encoder, checkpoint: Checkpoint) -> None:
    if engine.manifest.tokenization.file is None:
        return
    theirs = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    lower_case = read_settings(checkpoint).do_lower_case
    texts = [text.lower() for text in TEXTS] if lower_case else list(TEXTS)
    longest = _max_length(engine.manifest)
    for text, output in zip(texts, engine.encode(texts, prompt=""), strict=True):
        expected = theirs(text, truncation=True, max_length=longest)["input_ids"]
        expected = expected or [engine.manifest.tokenization.empty_id]
        check_token_ids(text, output.prompt_token_ids.tolist(), expected)


def check_token_ids(text: str, found: list[int], expected: list[int]) -> None:
    """Compare the token ids of a text.

    Raises:
        ParityError: they are others.
    """
    if found != expected:
        raise ParityError(
            f"the text {text!r} is tokenized to {found}, transformers gives {expected}; nothing was written"
        )
