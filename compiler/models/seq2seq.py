"""The graphs of an encoder-decoder: ``encode_source`` and ``decode``, over one set of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.decode_ops import (
    DecodeOpsFactory,
    KVCache,
    SourceWriter,
    StepState,
    write_source,
)
from precast.compiler.models.decoder import Decoder
from precast.compiler.models.embeddings import Embeddings
from precast.compiler.models.packed_ops import OpsFactory, PackedLayout
from precast.compiler.models.stack import Stack


class Seq2Seq(nn.Module):
    """The parameters of an encoder-decoder. A table that encoder and decoder share is one parameter."""

    def __init__(self, model: spec.Seq2SeqSpec) -> None:
        super().__init__()
        self.embeddings = Embeddings(model.hidden_size, model.embeddings)
        self.encoder = Stack(model.hidden_size, model.encoder)
        self.decoder = Decoder(model.hidden_size, model.decoder, self.embeddings.tokens)


class EncodeSource(nn.Module):
    """Encodes packed sources and writes their keys and values into the cross-attention KV cache.

    Takes the buffers of ``graphs.seq2seq.encode_source_signature``; parameters have the same names as in
    ``Seq2Seq``. Returns the hidden states, fp32 ``[T, hidden]``.
    """

    def __init__(self, model: Seq2Seq, make_ops: OpsFactory, write: SourceWriter = write_source) -> None:
        super().__init__()
        self.embeddings, self.encoder, self.decoder = model.embeddings, model.encoder, model.decoder
        self._make_ops = make_ops
        self._write = write

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        cross_slots: Tensor,
        key_positions: Tensor | None = None,
        kv_cache: Sequence[Tensor] = (),
    ) -> Tensor:
        layout = PackedLayout(input_ids.shape[0], cu_seqlens)
        ops = self._make_ops(layout, key_positions)
        hidden = self.encoder(self.embeddings(input_ids, None, layout), layout, ops)
        self.decoder.write_cross_kv(hidden, cross_slots, _kv_cache(kv_cache), self._write)
        return hidden.float()


class Decode(nn.Module):
    """One step of every active sequence: logits, fp32 ``[R, vocab_size]``.

    Takes the buffers of ``graphs.seq2seq.decode_signature``.
    """

    def __init__(self, model: Seq2Seq, make_ops: DecodeOpsFactory) -> None:
        super().__init__()
        # Named as in Seq2Seq, embeddings first: a table with two names is stored under the first.
        self.embeddings, self.decoder = model.embeddings, model.decoder
        self._make_ops = make_ops

    def forward(
        self,
        seq_ids: Tensor,
        tokens: Tensor,
        positions: Tensor,
        kv_slots: Tensor,
        cross_slots: Tensor,
        cross_lengths: Tensor,
        self_span: Tensor | None = None,
        cross_span: Tensor | None = None,
        kv_cache: Sequence[Tensor] = (),
    ) -> Tensor:
        state = StepState(
            seq_ids, tokens, positions, kv_slots, cross_slots, cross_lengths, self_span, cross_span
        )
        at, half = seq_ids.long(), len(kv_cache) // 2
        self_kv, cross_kv = _kv_cache(kv_cache[:half]), _kv_cache(kv_cache[half:])
        return self.decoder(tokens[at], positions[at], self._make_ops(state), self_kv, cross_kv)


def _kv_cache(tensors: Sequence[Tensor]) -> list[KVCache]:
    """Pairs of interleaved keys and values, a layer each."""
    return [KVCache(key, value) for key, value in zip(tensors[::2], tensors[1::2], strict=True)]
