"""How long an input may be, and how much fits a packed batch."""

from __future__ import annotations

from precast.compiler.checkpoint import Checkpoint
from precast.compiler.errors import CompileError
from precast.compiler.model.spec import ModelSpec
from precast.compiler.options import CompileOptions
from precast.compiler.sentence_transformers import SentenceSettings
from precast.compiler.tokenizer import TokenizerFacts
from precast.graphs.encode import Limits

DEFAULT_MAX_LENGTH = 8192
"""Where nothing else limits an input: a model for 128k tokens is rarely asked for more."""
DEFAULT_MAX_TOKENS = 16_384


def choose_limits(
    options: CompileOptions,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    settings: SentenceSettings,
    tokenizer: TokenizerFacts | None,
) -> Limits:
    """The limits that were asked for, else those that the checkpoint states.

    Raises:
        CompileError: longer than the model's positions reach, or a batch that does not hold one input.
    """
    positions = spec.embeddings.positions
    # A rotary or learned position beyond this was never seen in training, or does not exist.
    reach = positions.max_length if positions else _rotary_reach(spec, checkpoint)
    length = options.max_length
    if length is None:
        stated = [settings.max_seq_length, tokenizer.max_length if tokenizer else None, reach]
        length = min([DEFAULT_MAX_LENGTH, *(found for found in stated if found)])
    if reach is not None and length > reach:
        raise CompileError(f"max_length {length} is beyond the {reach} positions of this model")
    if tokenizer is not None and length <= tokenizer.added_tokens:
        raise CompileError(
            f"max_length {length} has no room for a text: the tokenizer adds {tokenizer.added_tokens} tokens"
        )
    tokens = options.max_tokens or max(DEFAULT_MAX_TOKENS, length)
    if tokens < length:
        raise CompileError(f"max_tokens {tokens} does not hold one input of max_length {length}")
    return Limits(max_length=length, max_tokens=tokens, max_batch=options.max_batch)


def _rotary_reach(spec: ModelSpec, checkpoint: Checkpoint) -> int | None:
    if any(layer.attention.rotary for layer in spec.encoder.layers):
        return int(checkpoint.config.max_position_embeddings)
    return None
