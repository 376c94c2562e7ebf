"""Runs a model on random inputs to calibrate the magnitudes of its activations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.kernels.torch.decode import TorchDecodeOps
from precast.compiler.kernels.torch.packed import TorchPackedOps
from precast.compiler.models.decode_ops import write_source
from precast.compiler.models.encode import Encode
from precast.compiler.models.seq2seq import Decode, EncodeSource, Seq2Seq
from precast.graphs.seq2seq import KVCacheShape

_NUM_INPUTS = 48
_MAX_LENGTH = 128
_STEPS = 16


def random_inputs(vocab_size: int, max_length: int, tokenizer: TokenizerFacts | None) -> list[list[int]]:
    """Generate calibration inputs: random token ids between the tokenizer's special tokens.

    Special tokens and positions determine the magnitude of activations; other tokens hardly affect it.

    Args:
        vocab_size: ids are below this.
        max_length: of the model, in tokens.
        tokenizer: adds its special tokens; None adds none.
    """
    random = np.random.default_rng(0)
    special = [] if tokenizer is None else Tokenizer.from_str(tokenizer.serialized).encode("").ids
    prefix, suffix = special[: len(special) // 2], special[len(special) // 2 :]
    longest = max(1, min(max_length, _MAX_LENGTH) - len(special))
    return [
        [*prefix, *random.integers(0, vocab_size, size=int(length)).tolist(), *suffix][:max_length]
        for length in random.integers(1, longest + 1, size=_NUM_INPUTS)
    ]


def run_encoder(module: Encode, inputs: Sequence[Sequence[int]]) -> None:
    """Run an encoder on ``inputs`` as one packed batch."""
    ids, offsets, positions = _packed(inputs)
    module(input_ids=ids, cu_seqlens=offsets, key_positions=positions)


def run_seq2seq(
    model: Seq2Seq, kv_cache: tuple[KVCacheShape, KVCacheShape], start: int, inputs: Sequence[Sequence[int]]
) -> None:
    """Run an encoder-decoder: encode ``inputs``, then decode some steps with tokens sampled from the logits.

    Args:
        model: an encoder-decoder.
        kv_cache: shapes of the self-attention and the cross-attention KV cache.
        start: the decoder's first token.
        inputs: token ids of the sources.
    """
    self_shape, cross_shape = kv_cache
    ids, offsets, positions = _packed(inputs)
    num_seqs, lengths = len(inputs), offsets.diff()
    cross_cache, self_cache = _allocate(cross_shape, len(ids)), _allocate(self_shape, num_seqs * _STEPS)
    dtype, longest = cross_cache[0].dtype, int(lengths.max())
    encode_source = EncodeSource(
        model, partial(TorchPackedOps, dtype=dtype, max_length=longest), write_source
    )
    encode_source(ids, offsets, torch.arange(len(ids), dtype=torch.int32), positions, cross_cache)
    decode, generator = Decode(model, TorchDecodeOps), torch.Generator().manual_seed(0)
    tokens = torch.full((num_seqs,), start, dtype=torch.int32)
    for step in range(_STEPS):
        logits = decode(
            seq_ids=torch.arange(num_seqs, dtype=torch.int32),
            tokens=tokens,
            positions=torch.full((num_seqs,), step, dtype=torch.int32),
            kv_slots=torch.arange(num_seqs * _STEPS, dtype=torch.int32).view(num_seqs, _STEPS),
            cross_slots=(offsets[:-1, None] + positions).clamp(max=len(ids) - 1),
            cross_lengths=lengths.to(torch.int32),
            self_span=torch.arange(step + 1, dtype=torch.int32),
            cross_span=positions,
            kv_cache=[*self_cache, *cross_cache],
        )
        tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].to(torch.int32)


def _packed(inputs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pack inputs: token ids ``[T]``, offsets ``[B + 1]``, and positions ``0 .. longest - 1``; all int32."""
    lengths = [0, *map(len, inputs)]
    return (
        torch.tensor([token for ids in inputs for token in ids], dtype=torch.int32),
        torch.tensor(lengths).cumsum(0).to(torch.int32),
        torch.arange(max(lengths), dtype=torch.int32),
    )


def _allocate(shape: KVCacheShape, slots: int) -> list[Tensor]:
    dtype = getattr(torch, shape.dtype)
    return [torch.zeros(slots, shape.heads, shape.head_dim, dtype=dtype) for _ in range(2 * shape.layers)]
