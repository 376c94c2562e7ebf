"""Compares the outputs of an encoder artifact with Hugging Face's, through the runtime's own engine."""

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
class Tolerance:
    """How far outputs may be from Hugging Face's.

    Attributes:
        relative: largest absolute error, divided by the largest expected magnitude.
        cosine: smallest cosine of an output and the expected one.
    """

    relative: float
    cosine: float


TOLERANCES = {
    "fp32": Tolerance(1e-4, 0.99999),
    "bf16": Tolerance(0.1, 0.999),
    "fp16": Tolerance(0.03, 0.9995),
}
QUANTIZED_TOLERANCES = {"int8": Tolerance(0.3, 0.99)}


def tolerance_for(build: BuildInfo) -> Tolerance:
    """Return the tolerance for the dtype and the quantization of a build."""
    return TOLERANCES[build.dtype] if build.quantization is None else QUANTIZED_TOLERANCES[build.quantization]


def check_parity(engine: Encoder, checkpoint: Checkpoint) -> ParityInfo:
    """Compare the outputs for random inputs, and the token ids of some texts, with Hugging Face's.

    Returns:
        The largest errors, for the manifest.

    Raises:
        ParityError: An output differs from Hugging Face's by more than the tolerance, or a text is tokenized
            differently.
    """
    manifest = engine.manifest
    _check_tokenizer(engine, checkpoint)
    sequences = random_sequences(manifest)
    output = manifest.output
    pooling = output.pooling if isinstance(output, EmbedInfo) else None
    oracle = Oracle(checkpoint, describe_model(checkpoint, manifest.model.task, pooling).spec)
    expected = [tensor.float().numpy() for tensor in oracle.outputs(sequences)]
    outputs = [_array_of(output) for output in engine.encode(sequences)]
    return check_errors(
        outputs, expected, oracle=Oracle.name, build=manifest.build, tokens=sum(map(len, sequences))
    )


def check_errors(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    *,
    oracle: str,
    build: BuildInfo,
    tokens: int,
) -> ParityInfo:
    """Compare outputs with the expected ones and return the errors for the manifest.

    Args:
        outputs: The artifact's output for each input.
        expected: The oracle's output for each input, in the same shapes.
        oracle: Description of the oracle, for the manifest and the error message.
        build: Build of the artifact, which decides on the tolerance.
        tokens: Number of tokens in all inputs.

    Raises:
        ParityError: The errors exceed the tolerance.
    """
    tolerance = tolerance_for(build)
    info = ParityInfo(
        oracle=oracle,
        inputs=len(outputs),
        tokens=tokens,
        allowed_relative_error=tolerance.relative,
        allowed_cosine=tolerance.cosine,
        **compare(outputs, expected),
    )
    if not (info.max_relative_error <= tolerance.relative and info.min_cosine >= tolerance.cosine):
        raise ParityError(
            f"the outputs differ from {oracle}: expected a relative error of at most "
            f"{tolerance.relative:.0e} and a cosine of at least {tolerance.cosine}, found "
            f"{info.max_relative_error:.2e} and {info.min_cosine:.6f}; nothing was written. Compare with "
            f"--backend reference, and please report it"
        )
    return info


def random_sequences(manifest: Manifest) -> list[list[int]]:
    """Return sequences of random token ids, with short, bucket-sized, longest and random lengths."""
    longest = min(_max_length(manifest), _MAX_RANDOM)
    random = np.random.default_rng(0)
    lengths = [1, 2, 15, 16, 17, 31, 33, longest, *random.integers(1, longest + 1, size=8)]
    vocab = manifest.model.vocab_size
    return [random.integers(0, vocab, size=min(int(n), longest)).tolist() for n in lengths]


def _max_length(manifest: Manifest) -> int:
    return manifest.limits.max_input_length


def compare(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the largest errors over all outputs, by their names in ``ParityInfo``.

    An output that is not finite has an infinite error. Outputs of fewer than 8 numbers count as cosine 1,
    because the cosine of so few says little.

    Args:
        outputs: One array for each input.
        expected: Arrays of the same shapes.
    """
    pairs = list(zip(outputs, expected, strict=True))
    max_error = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    magnitude = max(float(np.abs(theirs).max()) for theirs in expected)
    cosines = [_cosine(ours, theirs) for ours, theirs in pairs]
    finite = all(bool(np.isfinite(ours).all()) for ours in outputs)
    return {
        "max_abs_error": max_error if finite else float("inf"),
        "max_relative_error": max_error / max(magnitude, 1e-12) if finite else float("inf"),
        "min_cosine": min(cosines) if finite else -1.0,
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.size < 8:
        return 1.0
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _array_of(output: EncoderOutput) -> np.ndarray:
    for array in (output.embedding, output.logits, output.hidden):
        if array is not None:
            return array
    raise AssertionError("an encoder output without an array")


def _check_tokenizer(engine: Encoder, checkpoint: Checkpoint) -> None:
    if engine.manifest.tokenization.file is None:
        return
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    lower_case = read_settings(checkpoint).do_lower_case
    texts = [text.lower() for text in TEXTS] if lower_case else list(TEXTS)
    longest = _max_length(engine.manifest)
    for text, output in zip(texts, engine.encode(texts, prompt=""), strict=True):
        expected = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
        expected = expected or [engine.manifest.tokenization.empty_id]
        check_token_ids(text, output.prompt_token_ids.tolist(), expected)


def check_token_ids(text: str, found: list[int], expected: list[int]) -> None:
    """Compare the token ids of a text with those of transformers.

    Raises:
        ParityError: The ids differ.
    """
    if found != expected:
        raise ParityError(
            f"the text {text!r} is tokenized to {found}, expected {expected} as in transformers; nothing was "
            f"written"
        )
