"""The graphs of an encoder-decoder, ready to be lowered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from precast.compiler.build_seq2seq import BuiltSeq2Seq
from precast.compiler.kernels.cpu.gathered import GatheredOps
from precast.compiler.kernels.cpu.padded import PaddedOps
from precast.compiler.model import spec
from precast.compiler.model.choose.beam import Beam
from precast.compiler.model.choose.greedy import Greedy
from precast.compiler.model.choose.sample import Sample
from precast.compiler.model.rules import Rules
from precast.compiler.model.seq2seq import Admit, Decode
from precast.graphs.choose import beam_signature, greedy_signature, rules_signature, sample_signature
from precast.graphs.generate import GenerateLimits, PoolShape, admit_signature, decode_signature
from precast.graphs.signature import Signature

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class GraphModule:
    """A graph before it is lowered: what computes it, and what it takes and gives."""

    module: nn.Module
    signature: Signature


def pool_shapes(decoder: spec.Decoder, dtype: torch.dtype) -> tuple[PoolShape, PoolShape]:
    """What a place of the self pools and one of the cross pools holds."""

    def shape(attention: spec.Attention) -> PoolShape:
        return PoolShape(len(decoder.layers), attention.heads, attention.head_dim, _NAMES[dtype])

    first = decoder.layers[0]
    return shape(first.attention), shape(first.cross_attention)


def generation_graphs(
    built: BuiltSeq2Seq, limits: GenerateLimits, dtype: torch.dtype
) -> tuple[GraphModule, ...]:
    """All graphs of a CPU artifact, in the order in which they are compiled."""
    model, decoder = built.module, built.spec.decoder
    own, cross = pool_shapes(decoder, dtype)
    encode = partial(PaddedOps, dtype=dtype, max_length=limits.max_source_length)
    vocab = decoder.head.vocab_size
    return (
        GraphModule(
            Admit(model, encode), admit_signature(limits, cross, built.spec.hidden_size, device="cpu")
        ),
        GraphModule(Decode(model, GatheredOps), decode_signature(limits, own, cross, vocab, device="cpu")),
        GraphModule(Rules(), rules_signature(limits, vocab)),
        GraphModule(Greedy(), greedy_signature(limits, vocab)),
        GraphModule(Sample(), sample_signature(limits, vocab)),
        GraphModule(Beam(), beam_signature(limits, vocab)),
    )
