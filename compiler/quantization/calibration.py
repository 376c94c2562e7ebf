"""Running a model on drawn inputs, to see how far its numbers amax."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.kernels.torch.decode import GatheredOps
from precast.compiler.kernels.torch.packed import PaddedOps
from precast.compiler.models.decode_ops import write_source
from precast.compiler.models.encode import Encode
from precast.compiler.models.seq2seq import Decode, EncodeSource, Seq2Seq
from precast.graphs.seq2seq import KVCacheShape

_SEQUENCES = 48
_LONGEST = 128
_STEPS = 16


def random_inputs(vocab_size: int, max_length: int, tokenizer: TokenizerFacts | None) -> list[list[int]]:
    """Drawn token ids between the special tokens that the tokenizer puts around a text.

    Special tokens and positions decide how far numbers amax; which words stand between them hardly matters.
    """
    random = np.random.default_rng(0)
    around = [] if tokenizer is None else Tokenizer.from_str(tokenizer.serialized).encode("").ids
    before, behind = around[: len(around) // 2], around[len(around) // 2 :]
    room = max(1, min(max_length, _LONGEST) - len(around))
    return [
        [*before, *random.integers(0, vocab_size, size=int(length)).tolist(), *behind][:max_length]
        for length in random.integers(1, room + 1, size=_SEQUENCES)
    ]


def run_encoder(module: Encode, inputs: Sequence[Sequence[int]]) -> None:
    """Answer ``inputs`` as one packed batch."""
    ids, offsets, positions = _packed(inputs)
    module(input_ids=ids, cu_seqlens=offsets, key_positions=positions)


def run_seq2seq(
    model: Seq2Seq, kv_cache: tuple[KVCacheShape, KVCacheShape], start: int, inputs: Sequence[Sequence[int]]
) -> None:
    """Encode ``inputs``, then decode some steps of each, every token drawn from the model's own choice.

    Args:
        model: an encoder-decoder.
        kv_cache: what a place of the self kv_cache and one of the cross kv_cache holds.
        start: the token that the decoder begins with.
        inputs: token ids of the sources.
    """
    own, cross = kv_cache
    ids, offsets, positions = _packed(inputs)
    rows, lengths = len(inputs), offsets.diff()
    cross_caches, self_caches = _cache(cross, len(ids)), _cache(own, rows * _STEPS)
    dtype, longest = cross_caches[0].dtype, int(lengths.max())
    encode_source = EncodeSource(model, partial(PaddedOps, dtype=dtype, max_length=longest), write_source)
    encode_source(ids, offsets, torch.arange(len(ids), dtype=torch.int32), positions, cross_caches)
    decode, generator = Decode(model, GatheredOps), torch.Generator().manual_seed(0)
    tokens = torch.full((rows,), start, dtype=torch.int32)
    for step in range(_STEPS):
        logits = decode(
            seq_ids=torch.arange(rows, dtype=torch.int32),
            tokens=tokens,
            positions=torch.full((rows,), step, dtype=torch.int32),
            kv_slots=torch.arange(rows * _STEPS, dtype=torch.int32).view(rows, _STEPS),
            cross_slots=(offsets[:-1, None] + positions).clamp(max=len(ids) - 1),
            cross_lengths=lengths.to(torch.int32),
            self_span=torch.arange(step + 1, dtype=torch.int32),
            cross_span=positions,
            kv_cache=[*self_caches, *cross_caches],
        )
        tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].to(torch.int32)


def _packed(inputs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids ``[T]``, offsets ``[B + 1]``, and ``0 .. longest - 1``; int32."""
    lengths = [0, *map(len, inputs)]
    return (
        torch.tensor([token for one in inputs for token in one], dtype=torch.int32),
        torch.tensor(lengths).cumsum(0).to(torch.int32),
        torch.arange(max(lengths), dtype=torch.int32),
    )


def _cache(shape: KVCacheShape, places: int) -> list[Tensor]:
    dtype = getattr(torch, shape.dtype)
    return [torch.zeros(places, shape.heads, shape.head_dim, dtype=dtype) for _ in range(2 * shape.layers)]
