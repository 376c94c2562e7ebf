"""``encode_source`` and ``decode`` run by hand: what an engine will do, in the plainest way, for parity tests."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.lowering.reference import to_program
from precast.compiler.lowering.trace import trace
from precast.compiler.models.build import operations
from precast.compiler.models.build_seq2seq import BuiltSeq2Seq, build_seq2seq
from precast.compiler.models.seq2seq import Decode, EncodeSource
from precast.compiler.models.spec import AttentionSpec
from precast.compiler.options import Kernels
from precast.compiler.tasks.generation_graphs import (
    FEW_ROWS,
    decode_operations,
    decoding_model,
    source_writer,
)
from precast.compiler.verify.generation_parity import logits_of
from precast.graphs.encode import Device
from precast.graphs.program import Program
from precast.graphs.seq2seq import GenerateLimits, KVCacheShape, decode_signature, encode_source_signature
from precast.graphs.signature import Signature
from precast.runtime.backends.reference import ProgramRunner
from precast.runtime.replay import Graph
from tests.support.models import assert_close, hf_answers, save

GraphMaker = Callable[[nn.Module, Signature], Graph]

LIMITS = GenerateLimits(
    max_source_length=40, max_target_length=24, max_tokens=256, max_batch=8, max_num_seqs=9
)
SLOTS = 400
STEPS = 6
LATE = 2
"""The step before which the last row is admitted."""
BEAMS = (7, 8)


class ByHand:
    """A checkpoint's two graphs as portable programs, over kv_cache whose slots are dealt out at random.

    Args:
        checkpoint: of an encoder-decoder.
        seed: of the dealing.
        make: a graph from a module and its signature; the portable program where left out.
        device: whose operations the graphs have.
    """

    def __init__(
        self, checkpoint: Path, seed: int, make: GraphMaker | None = None, kernels: Kernels = "torch"
    ) -> None:
        self.built: BuiltSeq2Seq = build_seq2seq(open_checkpoint(str(checkpoint)), torch.float32)
        decoder = self.built.spec.decoder
        own, cross = decoder.layers[0].attention, decoder.layers[0].cross_attention
        shapes = (kv_cache_shape(own, len(decoder.layers)), kv_cache_shape(cross, len(decoder.layers)))
        vocab = decoder.head.vocab_size
        encode = operations(kernels, torch.float32, LIMITS.max_source_length)
        device: Device = "cuda" if kernels == "triton" else "cpu"
        encode_source = encode_source_signature(LIMITS, shapes[1], self.built.spec.hidden_size, device=device)
        decode = decode_signature(LIMITS, *shapes, vocab, device=device)
        make = make or program
        self._encode_source = make(
            EncodeSource(self.built.module, encode, source_writer(kernels)), encode_source
        )
        stepping = decoding_model(self.built.module, kernels, FEW_ROWS)
        self._decode = make(Decode(stepping, decode_operations(kernels, LIMITS.max_num_seqs)), decode)
        draw = random.Random(seed)
        self._free = {kind: draw.sample(range(1, SLOTS), SLOTS - 1) for kind in ("self", "cross")}
        # What nobody wrote must not matter: it is as wrong as it can be and still finite.
        self._kv_cache = {
            name: torch.full((SLOTS, shape.heads, shape.head_dim), 1e4)
            for kind, shape in zip(("self", "cross"), shapes, strict=True)
            for name in shape.names(kind)
        }
        rows = LIMITS.max_num_seqs
        self.kv_slots = torch.zeros(rows, LIMITS.max_target_length, dtype=torch.int32)
        self._cross_slots = torch.zeros(rows, LIMITS.max_source_length, dtype=torch.int32)
        self._cross_lengths = torch.zeros(rows, dtype=torch.int32)
        self._positions = torch.zeros(rows, dtype=torch.int32)

    def encode_sources(self, sources: Mapping[int, Sequence[int]]) -> Tensor:
        """Encode the source of each row together; the hidden states, packed, spare tokens cut off."""
        ids: list[int] = []
        slots: list[int] = []
        ends = [0]
        for row, source in sources.items():
            dealt = [self._free["cross"].pop() for _ in source]
            self._cross_slots[row, : len(dealt)] = torch.tensor(dealt)
            self._cross_lengths[row] = len(dealt)
            ids += source
            slots += dealt
            ends.append(len(ids))
        buffers = {
            "input_ids": torch.tensor([*ids, 0], dtype=torch.int32),
            "cu_seqlens": torch.tensor([*ends, ends[-1]], dtype=torch.int32),
            "cross_slots": torch.tensor([*slots, 0], dtype=torch.int32),
            "key_positions": torch.arange(max(2, *map(len, sources.values())), dtype=torch.int32),
        }
        (hidden,) = self._encode_source(buffers | self._kv_cache)
        return hidden[: len(ids)]

    def step(self, tokens: Mapping[int, int]) -> dict[int, Tensor]:
        """Each named row consumes a token; its logits of the next."""
        rows = list(tokens)
        given = torch.zeros(LIMITS.max_num_seqs, dtype=torch.int32)
        for row, token in tokens.items():
            given[row] = token
            self.kv_slots[row, self._positions[row]] = self._free["self"].pop()
        past = int(self._positions[rows].max()) + 1
        source = int(self._cross_lengths[rows].max())
        buffers = {
            "seq_ids": torch.tensor(rows if len(rows) > 1 else rows * 2, dtype=torch.int32),
            "tokens": given,
            "positions": self._positions,
            "kv_slots": self.kv_slots,
            "cross_slots": self._cross_slots,
            "cross_lengths": self._cross_lengths,
            "self_span": torch.arange(max(2, past), dtype=torch.int32),
            "cross_span": torch.arange(max(2, source), dtype=torch.int32),
        }
        (logits,) = self._decode(buffers | self._kv_cache)
        for row in rows:
            self._positions[row] += 1
        return dict(zip(rows, logits, strict=False))

    def follow(self, row: int, other: int) -> None:
        """From now on ``row`` continues the past of ``other``, whose slots it shares, as a beam does."""
        self.kv_slots[row] = self.kv_slots[other]
        self._positions[row] = self._positions[other]
        self._cross_slots[row] = self._cross_slots[other]
        self._cross_lengths[row] = self._cross_lengths[other]


def eager(module: nn.Module, signature: Signature) -> Graph:
    """``module`` as it stands: kernels of a GPU run in Triton's interpreter."""
    named = inspect.signature(module.forward).parameters
    names = [buffer.name for buffer in signature.inputs]

    def run(buffers: Mapping[str, Tensor]) -> list[Tensor]:
        own = {name: buffers[name] for name in names if name in named}
        with torch.no_grad():
            return [module(**own, kv_cache=[buffers[name] for name in names if name not in named])]

    return run


def kv_cache_shape(attention: AttentionSpec, layers: int) -> KVCacheShape:
    return KVCacheShape(layers, attention.heads, attention.head_dim, "float32")


def program(module: nn.Module, signature: Signature) -> ProgramRunner:
    """``module`` as the reference backend stores it, read back from its text."""
    names = [buffer.name for buffer in signature.inputs]
    text = to_program(trace(module.eval(), signature), names).to_json()
    return ProgramRunner(Program.from_json(text), dict(module.state_dict()))


def check_every_step(
    model: PreTrainedModel,
    sources: list[list[int]],
    seed: int,
    start: int,
    make: GraphMaker | None = None,
    kernels: Kernels = "torch",
) -> None:
    """Rows admitted at two moments decode side by side; then two beams go on from the first."""
    sources = sources if len(sources) > 1 else sources * 2
    engine = ByHand(save(model), seed, make, kernels)
    vocab, draw = engine.built.spec.decoder.head.vocab_size, random.Random(seed)
    targets = [[start, *(draw.randrange(vocab) for _ in range(STEPS - 1))] for _ in sources]
    last = len(sources) - 1
    hidden = engine.encode_sources(dict(enumerate(sources[:last])))
    assert_close([hidden], [torch.cat(hf_answers(model.get_encoder(), sources[:last], "last_hidden_state"))])
    begun = {row: LATE if row == last else 0 for row in range(len(sources))}
    found: dict[int, list[torch.Tensor]] = {row: [] for row in begun}
    for at in range(STEPS):
        if at == LATE:
            engine.encode_sources({last: sources[last]})
        live = {row: targets[row][at - begin] for row, begin in begun.items() if begin <= at}
        for row, logits in engine.step(live).items():
            found[row].append(logits)
    for row, rows in found.items():
        assert len(rows) == STEPS - begun[row]
        assert_close(rows, list(logits_of(model, sources[row], targets[row][: len(rows)])))
    _check_beams(engine, model, sources[0], targets[0])


def _check_beams(engine: ByHand, model: PreTrainedModel, source: list[int], target: list[int]) -> None:
    """Two rows share the past of row 0 and go apart; nothing that they share is copied."""
    pasts = {beam: list(target) for beam in BEAMS}
    for beam in BEAMS:
        engine.follow(beam, 0)
    for step in range(2):
        given = {beam: 3 + 2 * step + at for at, beam in enumerate(BEAMS)}
        for beam, logits in engine.step(given).items():
            pasts[beam].append(given[beam])
            assert_close([logits], [logits_of(model, source, pasts[beam])[-1]])
