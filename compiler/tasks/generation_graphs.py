"""The graphs of an encoder-decoder, as modules that can be lowered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from precast.compiler.kernels.avx512.decode import StepOps
from precast.compiler.kernels.torch.decode import GatheredOps
from precast.compiler.models import spec
from precast.compiler.models.build import operations
from precast.compiler.models.build_seq2seq import BuiltSeq2Seq
from precast.compiler.models.decode_ops import DecodeOpsFactory, SourceWriter, write_source
from precast.compiler.models.seq2seq import Decode, EncodeSource, Seq2Seq
from precast.compiler.options import Kernels
from precast.compiler.sampling.beam import Beam
from precast.compiler.sampling.greedy import Greedy
from precast.compiler.sampling.logits_processors import LogitsProcessors
from precast.compiler.sampling.multinomial import Multinomial
from precast.graphs.encode import Device
from precast.graphs.sampling import (
    beam_signature,
    check_vocab_size,
    greedy_signature,
    logits_processors_signature,
    multinomial_signature,
)
from precast.graphs.seq2seq import GenerateLimits, KVCacheShape, decode_signature, encode_source_signature
from precast.graphs.signature import Signature

FEW_ROWS = 4
"""A step that is compiled for no more has layers of its own; it serves up to 11 rows, see ``lower_graph``."""
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class GraphModule:
    """A graph before it is lowered: what computes it, and what it takes and gives."""

    module: nn.Module
    signature: Signature
    tuned: Callable[[int], nn.Module] | None = None
    """As in ``GraphSource``."""


def kv_cache_shapes(decoder: spec.Decoder, dtype: torch.dtype) -> tuple[KVCacheShape, KVCacheShape]:
    """What a place of the self kv_cache and one of the cross kv_cache holds."""

    def shape(attention: spec.Attention) -> KVCacheShape:
        return KVCacheShape(len(decoder.layers), attention.heads, attention.head_dim, _NAMES[dtype])

    first = decoder.layers[0]
    return shape(first.attention), shape(first.cross_attention)


def generation_graphs(
    built: BuiltSeq2Seq, limits: GenerateLimits, dtype: torch.dtype, kernels: Kernels
) -> tuple[GraphModule, ...]:
    """All graphs of an artifact, in the order in which they are compiled.

    Raises:
        LimitsError: The sampling graphs do not support a vocabulary of this size.
    """
    model, decoder = built.module, built.spec.decoder
    own, cross = kv_cache_shapes(decoder, dtype)
    encode = operations(kernels, dtype, limits.max_source_length)
    vocab = decoder.head.vocab_size
    check_vocab_size(vocab)
    device: Device = "cuda" if kernels == "triton" else "cpu"

    def decode(rows: int) -> Decode:
        return Decode(decoding_model(model, kernels, rows), decode_operations(kernels, rows))

    return (
        GraphModule(
            EncodeSource(model, encode, source_writer(kernels)),
            encode_source_signature(limits, cross, built.spec.hidden_size, device=device),
        ),
        GraphModule(
            Decode(model, decode_operations(kernels, 1)),
            decode_signature(limits, own, cross, vocab, device=device),
            tuned=decode if kernels == "triton" else None,
        ),
        GraphModule(LogitsProcessors(), logits_processors_signature()),
        GraphModule(Greedy(), greedy_signature()),
        GraphModule(Multinomial(), multinomial_signature()),
        GraphModule(Beam(), beam_signature()),
    )


def decode_operations(kernels: Kernels, typical_rows: int) -> DecodeOpsFactory:
    """What a decoder's step computes in the device's own way.

    Args:
        kernels: that the graph is lowered with.
        typical_rows: of a step; on CUDA it says how many programs share a row's keys.
    """
    if kernels == "torch":
        return GatheredOps
    if kernels == "avx512":
        return StepOps
    from precast.compiler.kernels.triton.decode import TritonDecodeOps

    return partial(TritonDecodeOps, typical_rows=typical_rows)


def decoding_model(model: Seq2Seq, kernels: Kernels, typical_rows: int) -> Seq2Seq:
    """``model``, or on CUDA for a handful of rows another module over the same tensors."""
    if kernels != "triton" or typical_rows > FEW_ROWS:
        return model
    from precast.compiler.kernels.triton.layers import with_few_rows

    return with_few_rows(model)


def source_writer(kernels: Kernels) -> SourceWriter:
    """What writes the keys and values of sources, in the device's own way."""
    if kernels != "triton":
        return write_source
    from precast.compiler.kernels.triton import cross_kv

    return cross_kv.write_source
