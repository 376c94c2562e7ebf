"""A generation core without an artifact, whose graphs are portable programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.lowering.reference import to_program
from precast.compiler.lowering.trace import trace
from precast.compiler.models.build import build_seq2seq
from precast.compiler.targets.registry import get_target
from precast.compiler.tasks.generate import generation_modules, kv_cache_shapes
from precast.graphs.generation import generation_signatures
from precast.graphs.program import Program
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Signature
from precast.runtime.backends.reference import ProgramRunner
from precast.runtime.cpu.thread_pool import ThreadPool
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.decode_loop import DecodeLoop
from precast.runtime.generation.kv_cache import BLOCK_SIZE, kv_cache_tensors
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import DirectStepper
from precast.runtime.generation.steps import LoadedGraph, Steps
from precast.runtime.io.tokens import Tokens

LIMITS = GenerateLimits(
    max_source_length=24, max_target_length=32, max_tokens=64, max_batch=6, max_num_seqs=12
)


class Model:
    """The graphs of one checkpoint, traced once."""

    def __init__(self, checkpoint: Path, limits: GenerateLimits = LIMITS) -> None:
        built = build_seq2seq(open_checkpoint(str(checkpoint)), torch.float32)
        self.limits = limits
        self.vocab_size = built.spec.decoder.head.vocab_size
        self.shapes = kv_cache_shapes(built.spec.decoder, torch.float32)
        signatures = generation_signatures(
            limits,
            *self.shapes,
            hidden_size=built.spec.hidden_size,
            vocab_size=self.vocab_size,
            device="cpu",
        )
        modules = generation_modules(built.module, limits, torch.float32, get_target("cpu"))
        self.graphs = {
            name: LoadedGraph(signatures[name], _program(module, signatures[name]))
            for name, module in modules.items()
        }

    def engine(
        self,
        *,
        self_blocks: int = 40,
        cross_blocks: int = 12,
        max_waiting: int = 1000,
        max_batch_delay_steps: int = 2,
        steps_per_sync: int = 1,
        wrap: Callable[[Steps], Any] = lambda steps: steps,
    ) -> GenerationCore:
        """Return a new core with its own KV cache.

        Args:
            self_blocks: Blocks for self-attention.
            cross_blocks: Blocks for cross-attention.
            max_waiting: Most waiting requests.
            max_batch_delay_steps: As the engine's option.
            steps_per_sync: As the engine's option.
            wrap: Wraps the graphs of the core.
        """
        limits, (own_shape, cross_shape) = self.limits, self.shapes
        own, cross = BlockAllocator(self_blocks + 1, BLOCK_SIZE), BlockAllocator(cross_blocks + 1, BLOCK_SIZE)
        kv_cache: Mapping[str, Tensor] = {
            **kv_cache_tensors("self", own_shape, self_blocks + 1),
            **kv_cache_tensors("cross", cross_shape, cross_blocks + 1),
        }
        for tensor in kv_cache.values():
            tensor.fill_(1e4)  # unwritten slots must not matter: as wrong as possible, but finite
        state = DecoderState(limits)
        scheduler = Scheduler(
            limits.max_num_seqs,
            own,
            cross,
            max_waiting=max_waiting,
            source_batch_tokens=limits.max_tokens,
            source_batch=limits.max_batch,
            max_batch_delay_steps=max_batch_delay_steps,
        )
        steps = wrap(Steps(self.graphs, state, kv_cache))
        stepper = DirectStepper(steps, state, own, cross, kv_cache)
        decoding = DecodeLoop(stepper, own, cross, None, self.vocab_size)
        return GenerationCore(decoding, scheduler, steps_per_sync=steps_per_sync, threads=ThreadPool(1))


def request(source: list[int], plan: SamplingParams, **more: Any) -> Request:
    return Request(Tokens(np.array(source, np.int32), None), plan, **more)


def _program(module: nn.Module, signature: Signature) -> ProgramRunner:
    weights = dict(module.state_dict())
    if weights:
        return ProgramRunner(_read_back(module, signature), weights)
    return _without_weights(signature, _Held(module))


class _Held:
    """A module that compares equal to all others: in the cache its signature identifies it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _without_weights(signature: Signature, held: _Held) -> ProgramRunner:
    """Return ``logits_processors`` or a ``sample`` graph, which all models share."""
    return ProgramRunner(_read_back(held.module, signature), {})


def _read_back(module: nn.Module, signature: Signature) -> Program:
    names = [buffer.name for buffer in signature.inputs]
    return Program.from_json(to_program(trace(module.eval(), signature), names).to_json())
