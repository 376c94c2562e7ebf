"""Limits of an artifact: the longest input and the largest packed batch."""

from __future__ import annotations

from precast.artifacts.generation_defaults import GenerationDefaults
from precast.compiler.errors import CompileError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceSettings
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.models.spec import ModelSpec, PositionsSpec, Seq2SeqSpec
from precast.compiler.options import CompileOptions
from precast.graphs.encode import EncodeLimits
from precast.graphs.seq2seq import GenerateLimits

DEFAULT_MAX_LENGTH = 8192
"""For models without a limit, or with one that is rarely used in full, such as 128k tokens."""
DEFAULT_MAX_TOKENS = 16_384
DEFAULT_MAX_BATCH = 512
DEFAULT_SOURCE_LENGTH = 512
"""For models with relative positions whose tokenizer states no limit."""
DEFAULT_TARGET_LENGTH = 512
DEFAULT_SOURCE_TOKENS = 4096
DEFAULT_SOURCES = 64


def encode_limits(
    options: CompileOptions,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    settings: SentenceSettings,
    tokenizer: TokenizerFacts | None,
) -> EncodeLimits:
    """Return the limits of an encoder: from the options, by default from the checkpoint.

    Raises:
        CompileError: ``max_length`` exceeds the model's positions or ``max_tokens``, or the tokenizer's own
            tokens fill it.
    """
    max_positions = _max_positions(spec.embeddings.positions) or _max_rotary_positions(spec, checkpoint)
    length = options.max_length
    if length is None:
        known = [settings.max_seq_length, tokenizer.max_length if tokenizer else None, max_positions]
        length = min([DEFAULT_MAX_LENGTH, *(limit for limit in known if limit)])
    _check_length(length, max_positions, tokenizer)
    return EncodeLimits(
        max_length=length,
        max_tokens=_batch_tokens(options, length, DEFAULT_MAX_TOKENS),
        max_batch=options.max_batch or DEFAULT_MAX_BATCH,
    )


def generate_limits(
    options: CompileOptions,
    spec: Seq2SeqSpec,
    tokenizer: TokenizerFacts | None,
    defaults: GenerationDefaults,
) -> GenerateLimits:
    """Return the limits of an encoder-decoder: from the options, by default from the checkpoint.

    Raises:
        CompileError: ``max_length`` or ``max_target_length`` exceed the positions of encoder or decoder, or
            ``max_length`` exceeds ``max_tokens`` or leaves no room for text.
    """
    max_positions = _max_positions(spec.embeddings.positions)
    length = options.max_length
    if length is None:
        known = [limit for limit in (tokenizer.max_length if tokenizer else None, max_positions) if limit]
        length = min([DEFAULT_MAX_LENGTH, *(known or [DEFAULT_SOURCE_LENGTH])])
    _check_length(length, max_positions, tokenizer)
    return GenerateLimits(
        max_source_length=length,
        max_target_length=_target_length(
            options, _max_positions(spec.decoder.embeddings.positions), defaults
        ),
        max_tokens=_batch_tokens(options, length, DEFAULT_SOURCE_TOKENS),
        max_batch=options.max_batch or DEFAULT_SOURCES,
        max_num_seqs=options.max_num_seqs,
    )


def _target_length(options: CompileOptions, max_positions: int | None, defaults: GenerationDefaults) -> int:
    """Return the positions of a decoder sequence; by default enough for the checkpoint's own defaults."""
    length = options.max_target_length
    if length is not None:
        if max_positions is not None and length > max_positions:
            raise CompileError(
                f"max_target_length {length} is beyond the {max_positions} positions of this decoder"
            )
        return length
    # The start token takes the first position; new tokens follow.
    length = max(DEFAULT_TARGET_LENGTH, defaults.max_length or 0, (defaults.max_new_tokens or 0) + 1)
    return length if max_positions is None else min(length, max_positions)


def _check_length(length: int, max_positions: int | None, tokenizer: TokenizerFacts | None) -> None:
    if max_positions is not None and length > max_positions:
        raise CompileError(f"max_length {length} is beyond the {max_positions} positions of this model")
    if tokenizer is not None and length <= tokenizer.added_tokens:
        raise CompileError(
            f"max_length {length} has no room for a text: the tokenizer adds {tokenizer.added_tokens} tokens"
        )


def _batch_tokens(options: CompileOptions, length: int, default: int) -> int:
    tokens = options.max_tokens or max(default, length)
    if tokens < length:
        raise CompileError(f"max_tokens {tokens} does not hold one input of max_length {length}")
    return tokens


def _max_positions(positions: PositionsSpec | None) -> int | None:
    """Return the number of learned or tabulated positions; None if there is no table."""
    return positions.max_length if positions else None


def _max_rotary_positions(spec: ModelSpec, checkpoint: Checkpoint) -> int | None:
    """Return the number of rotary positions that the model was trained for; None without rotary positions."""
    if any(layer.attention.rotary for layer in spec.encoder.layers):
        return int(checkpoint.config.max_position_embeddings)
    return None
