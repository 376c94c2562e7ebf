"""Runs ``encode_source`` and ``decode`` step by step, as an engine would, for parity tests."""

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
from precast.compiler.models.build import build_seq2seq
from precast.compiler.models.seq2seq import Decode, EncodeSource
from precast.compiler.models.spec import AttentionSpec
from precast.compiler.targets.registry import get_target
from precast.compiler.verify.generation_parity import logits_of
from precast.graphs.program import Program
from precast.graphs.seq2seq import GenerateLimits, KVCacheShape, decode_signature, encode_source_signature
from precast.graphs.signature import Signature
from precast.runtime.backends.reference import ProgramRunner
from precast.runtime.replay import Graph
from tests.support.models import assert_close, hf_outputs, save

GraphMaker = Callable[[nn.Module, Signature], Graph]

LIMITS = GenerateLimits(
    max_source_length=40, max_target_length=24, max_tokens=256, max_batch=8, max_num_seqs=9
)
SLOTS = 400
STEPS = 6
LATE = 2
"""The step before which the last source is encoded."""
BEAMS = (7, 8)


class ManualSeq2Seq:
    """The graphs of an encoder-decoder, with a KV cache whose slots are allocated at random.

    Args:
        checkpoint: Checkpoint of an encoder-decoder.
        seed: Seed of the allocation.
        make: Builds a graph from a module and its signature; default the portable program.
        target: Target whose operators are used.
    """

    def __init__(
        self, checkpoint: Path, seed: int, make: GraphMaker | None = None, target: str = "cpu"
    ) -> None:
        self.built = build_seq2seq(open_checkpoint(str(checkpoint)), torch.float32)
        decoder = self.built.spec.decoder
        layer, num_layers = decoder.layers[0], len(decoder.layers)
        shapes = (
            kv_cache_shape(layer.attention, num_layers),
            kv_cache_shape(layer.cross_attention, num_layers),
        )
        vocab = decoder.head.vocab_size
        operators = get_target(target)
        packed_ops = operators.packed_ops(torch.float32, LIMITS.max_source_length)
        device = operators.device
        encode_source = encode_source_signature(LIMITS, shapes[1], self.built.spec.hidden_size, device=device)
        decode = decode_signature(LIMITS, *shapes, vocab, device=device)
        make = make or program
        self._encode_source = make(
            EncodeSource(self.built.module, packed_ops, operators.write_source), encode_source
        )
        decoder_model = operators.decoder(self.built.module, 1)
        self._decode = make(Decode(decoder_model, operators.decode_ops(LIMITS.max_num_seqs)), decode)
        generator = random.Random(seed)
        self._free = {kind: generator.sample(range(1, SLOTS), SLOTS - 1) for kind in ("self", "cross")}
        # Unwritten slots must not matter: they hold large finite numbers.
        self._kv_cache = {
            name: torch.full((SLOTS, shape.heads, shape.head_dim), 1e4)
            for kind, shape in zip(("self", "cross"), shapes, strict=True)
            for name in shape.names(kind)
        }
        num_seqs = LIMITS.max_num_seqs
        self.kv_slots = torch.zeros(num_seqs, LIMITS.max_target_length, dtype=torch.int32)
        self._cross_slots = torch.zeros(num_seqs, LIMITS.max_source_length, dtype=torch.int32)
        self._cross_lengths = torch.zeros(num_seqs, dtype=torch.int32)
        self._positions = torch.zeros(num_seqs, dtype=torch.int32)

    def encode_sources(self, sources: Mapping[int, Sequence[int]]) -> Tensor:
        """Encode a source for each sequence in one batch and return packed hidden states."""
        ids: list[int] = []
        slots: list[int] = []
        ends = [0]
        for seq_id, source in sources.items():
            allocated = [self._free["cross"].pop() for _ in source]
            self._cross_slots[seq_id, : len(allocated)] = torch.tensor(allocated)
            self._cross_lengths[seq_id] = len(allocated)
            ids += source
            slots += allocated
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
        """Feed a token to each listed sequence and return the logits of the next token, by sequence."""
        seq_ids = list(tokens)
        next_tokens = torch.zeros(LIMITS.max_num_seqs, dtype=torch.int32)
        for seq_id, token in tokens.items():
            next_tokens[seq_id] = token
            self.kv_slots[seq_id, self._positions[seq_id]] = self._free["self"].pop()
        past = int(self._positions[seq_ids].max()) + 1
        source = int(self._cross_lengths[seq_ids].max())
        buffers = {
            "seq_ids": torch.tensor(seq_ids if len(seq_ids) > 1 else seq_ids * 2, dtype=torch.int32),
            "tokens": next_tokens,
            "positions": self._positions,
            "kv_slots": self.kv_slots,
            "cross_slots": self._cross_slots,
            "cross_lengths": self._cross_lengths,
            "self_span": torch.arange(max(2, past), dtype=torch.int32),
            "cross_span": torch.arange(max(2, source), dtype=torch.int32),
        }
        (logits,) = self._decode(buffers | self._kv_cache)
        for seq_id in seq_ids:
            self._positions[seq_id] += 1
        return dict(zip(seq_ids, logits, strict=False))

    def fork(self, parent: int, child: int) -> None:
        """Let ``child`` continue the past of ``parent`` and share its slots, as a beam does."""
        self.kv_slots[child] = self.kv_slots[parent]
        self._positions[child] = self._positions[parent]
        self._cross_slots[child] = self._cross_slots[parent]
        self._cross_lengths[child] = self._cross_lengths[parent]


def eager(module: nn.Module, signature: Signature) -> Graph:
    """Return ``module`` as a graph that runs eagerly, with Triton kernels in Triton's interpreter."""
    named = inspect.signature(module.forward).parameters
    names = [buffer.name for buffer in signature.inputs]

    def run(buffers: Mapping[str, Tensor]) -> list[Tensor]:
        inputs = {name: buffers[name] for name in names if name in named}
        with torch.no_grad():
            return [module(**inputs, kv_cache=[buffers[name] for name in names if name not in named])]

    return run


def kv_cache_shape(attention: AttentionSpec, layers: int) -> KVCacheShape:
    return KVCacheShape(layers, attention.heads, attention.head_dim, "float32")


def program(module: nn.Module, signature: Signature) -> ProgramRunner:
    """Return ``module`` as a serialized program of the reference backend."""
    names = [buffer.name for buffer in signature.inputs]
    text = to_program(trace(module.eval(), signature), names).to_json()
    return ProgramRunner(Program.from_json(text), dict(module.state_dict()))


def check_every_step(
    model: PreTrainedModel,
    sources: list[list[int]],
    seed: int,
    start: int,
    make: GraphMaker | None = None,
    target: str = "cpu",
) -> None:
    """Compare all logits of sequences that start at two different steps, and of two beams, with HF's."""
    sources = sources if len(sources) > 1 else sources * 2
    engine = ManualSeq2Seq(save(model), seed, make, target)
    vocab, generator = engine.built.spec.decoder.head.vocab_size, random.Random(seed)
    targets = [[start, *(generator.randrange(vocab) for _ in range(STEPS - 1))] for _ in sources]
    last = len(sources) - 1
    hidden = engine.encode_sources(dict(enumerate(sources[:last])))
    assert_close([hidden], [torch.cat(hf_outputs(model.get_encoder(), sources[:last], "last_hidden_state"))])
    first_step = {seq_id: LATE if seq_id == last else 0 for seq_id in range(len(sources))}
    outputs: dict[int, list[torch.Tensor]] = {seq_id: [] for seq_id in first_step}
    for step in range(STEPS):
        if step == LATE:
            engine.encode_sources({last: sources[last]})
        active = {seq_id: step - first for seq_id, first in first_step.items() if first <= step}
        tokens = {seq_id: targets[seq_id][position] for seq_id, position in active.items()}
        for seq_id, logits in engine.step(tokens).items():
            outputs[seq_id].append(logits)
    for seq_id, ours in outputs.items():
        assert len(ours) == STEPS - first_step[seq_id]
        assert_close(ours, list(logits_of(model, sources[seq_id], targets[seq_id][: len(ours)])))
    _check_beams(engine, model, sources[0], targets[0])


def _check_beams(engine: ManualSeq2Seq, model: PreTrainedModel, source: list[int], target: list[int]) -> None:
    """Check two beams that share the past of sequence 0 and diverge; shared slots are not copied."""
    pasts = {beam: list(target) for beam in BEAMS}
    for beam in BEAMS:
        engine.fork(0, beam)
    for step in range(2):
        tokens = {beam: 3 + 2 * step + index for index, beam in enumerate(BEAMS)}
        for beam, logits in engine.step(tokens).items():
            pasts[beam].append(tokens[beam])
            assert_close([logits], [logits_of(model, source, pasts[beam])[-1]])
