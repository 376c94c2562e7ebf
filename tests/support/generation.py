"""A generation engine without an artifact: portable programs under the worker that serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precast.compiler.models.build_seq2seq import build_seq2seq
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.tasks.generation_graphs import GraphModule, generation_graphs, pool_shapes
from precast.compiler.lowering.reference import to_program
from precast.compiler.lowering.trace import trace
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.program import Program
from precast.runtime.backends.reference import ProgramRunner
from precast.graphs.signature import Signature
from precast.runtime.generation.decode_loop import Decoding
from precast.runtime.generation.block_allocator import PagePool
from precast.runtime.generation.sampling_params import Plan
from precast.runtime.generation.kv_cache import PAGE_SIZE, pool_tensors
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.generation.state import RowState
from precast.runtime.generation.stepper import DirectStepper
from precast.runtime.generation.steps import LoadedGraph, Steps
from precast.runtime.generation.worker import GenerationWorker
from precast.runtime.cpu.thread_pool import Team
from precast.runtime.io.tokens import Tokens

LIMITS = GenerateLimits(max_source_length=24, max_target_length=32, max_tokens=64, max_batch=6, max_rows=12)


class Model:
    """The graphs of one checkpoint, traced once."""

    def __init__(self, checkpoint: Path, limits: GenerateLimits = LIMITS) -> None:
        built = build_seq2seq(open_checkpoint(str(checkpoint)), torch.float32)
        self.limits = limits
        self.vocab_size = built.spec.decoder.head.vocab_size
        self.shapes = pool_shapes(built.spec.decoder, torch.float32)
        self.graphs = {
            one.signature.graph: LoadedGraph(one.signature, _program(one))
            for one in generation_graphs(built, limits, torch.float32, "torch")
        }

    def engine(
        self,
        *,
        self_pages: int = 40,
        cross_pages: int = 12,
        max_waiting: int = 1000,
        patience: int = 2,
        steps_per_look: int = 1,
        wrap: Callable[[Steps], Any] = lambda steps: steps,
    ) -> GenerationWorker:
        """A worker of its own, with empty pools.

        Args:
            self_pages: of the self pools.
            cross_pages: of the cross pools.
            max_waiting: requests that may wait.
            patience: steps.
            steps_per_look: steps.
            wrap: puts something between the worker and its graphs.
        """
        limits, (own_shape, cross_shape) = self.limits, self.shapes
        own, cross = PagePool(self_pages + 1, PAGE_SIZE), PagePool(cross_pages + 1, PAGE_SIZE)
        pools: Mapping[str, Tensor] = {
            **pool_tensors("self", own_shape, self_pages + 1),
            **pool_tensors("cross", cross_shape, cross_pages + 1),
        }
        for tensor in pools.values():  # what nobody wrote must not matter: as wrong as it can be and finite
            tensor.fill_(1e4)
        state = RowState(limits)
        scheduler = Scheduler(
            limits.max_rows,
            own,
            cross,
            max_waiting=max_waiting,
            admit_tokens=limits.max_tokens,
            admit_batch=limits.max_batch,
            patience=patience,
        )
        steps = wrap(Steps(self.graphs, state, pools))
        stepper = DirectStepper(steps, state, own, cross, pools)
        decoding = Decoding(stepper, own, cross, None, self.vocab_size)
        return GenerationWorker(decoding, scheduler, steps_per_look=steps_per_look, team=Team(1))


def request(source: list[int], plan: Plan, **more: Any) -> GenerateRequest:
    return GenerateRequest(Tokens(np.array(source, np.int32), None), plan, **more)


def _program(one: GraphModule) -> ProgramRunner:
    weights = dict(one.module.state_dict())
    if weights:
        return ProgramRunner(_read_back(one), weights)
    return _without_weights(one.signature, _Held(one))


class _Held:
    """A module that does not take part in the comparison of calls: it is told by its signature."""

    def __init__(self, one: GraphModule) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _without_weights(signature: Signature, held: _Held) -> ProgramRunner:
    """``rules`` and ``choose.*``: models with the same signature share them."""
    return ProgramRunner(_read_back(held.one), {})


def _read_back(one: GraphModule) -> Program:
    names = [buffer.name for buffer in one.signature.inputs]
    return Program.from_json(to_program(trace(one.module.eval(), one.signature), names).to_json())
