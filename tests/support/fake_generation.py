"""Generation on the fake device: the tiny model's portable programs are its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precast.graphs.generation import generation_buckets, generation_signatures
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Signature
from precast.runtime.cpu.thread_pool import ThreadPool
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.cuda.memory import captured_stepper, example_batches
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.decode_loop import DecodeLoop
from precast.runtime.generation.kv_cache import BLOCK_SIZE, NumBlocks
from precast.runtime.generation.request import Request
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.generation.steps import LoadedGraph
from precast.runtime.replay import Graph
from tests.support.fake_device import FakeDevice
from tests.support.generation import Model

WRONG = 1e4
"""Content of unwritten KV cache slots: large but finite, since the CPU programs multiply masked slots by 0,
while CUDA kernels do not read them."""


@dataclass(frozen=True)
class FakeGraph:
    """A graph for the fake device that runs the model's CPU program."""

    device: FakeDevice
    signature: Signature
    program: Graph

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        axes = axes_of(self.signature, inputs)
        (output,) = self.signature.outputs
        untracked = [name for name in inputs if name.startswith(("cross_key", "cross_value"))]
        return self.device.kernel(
            self.compute, inputs, [output.sizes(axes)], dtype=output.torch_dtype,
            writes=self.signature.written, untracked=untracked,
        )  # fmt: skip

    def compute(self, inputs: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> None:
        given = dict(inputs)
        if self.signature.graph == GraphName.ENCODE_SOURCE:
            longest = int(given["cu_seqlens"].diff().max())
            assert longest > 0 and given["cu_seqlens"][0] == 0, f"cu_seqlens {given['cu_seqlens'].tolist()}"
            given["key_positions"] = _counting(max(2, longest))
        elif self.signature.graph == GraphName.DECODE:
            seq_ids = given["seq_ids"].long()
            positions = given["positions"][seq_ids]
            valid = (seq_ids >= 0) & (positions >= 0)
            assert valid.all(), f"sequences {seq_ids.tolist()} at {positions.tolist()}"
            given["self_span"] = _counting(max(2, int(positions.max()) + 1))
            given["cross_span"] = _counting(max(2, int(given["cross_lengths"][seq_ids].max())))
        (found,) = self.program(given)
        outputs[0].copy_(found)


def axes_of(signature: Signature, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes of the axes that tensors imply."""
    sizes: dict[str, int] = {}
    for buffer in signature.inputs:
        for dim, size in zip(buffer.shape, inputs[buffer.name].shape, strict=True):
            if isinstance(dim, str) and "+" not in dim:
                sizes[dim] = size
    return sizes


def fake_engine(
    model: Model,
    device: FakeDevice,
    *,
    self_blocks: int = 40,
    cross_blocks: int = 12,
    max_waiting: int = 1000,
    max_batch_delay_steps: int = 2,
    steps_per_sync: int = 2,
    like: Request | None = None,
    wrap: Callable[[CapturedStepper], Any] = lambda stepper: stepper,
) -> GenerationCore:
    """As ``Model.engine``, on the device; graphs for requests ``like`` this one are captured at startup."""
    limits, (own_shape, cross_shape) = model.limits, model.shapes
    device.open()
    own, cross = BlockAllocator(self_blocks + 1, BLOCK_SIZE), BlockAllocator(cross_blocks + 1, BLOCK_SIZE)
    graph_buckets = {
        name: generation_buckets(name, limits, "cuda") for name in (GraphName.ENCODE_SOURCE, GraphName.DECODE)
    }
    stepper = captured_stepper(
        device,
        fake_graphs(model, device),
        limits,
        own_shape,
        cross_shape,
        NumBlocks(self_blocks, cross_blocks),
        graph_buckets,
        examples=example_batches(like, model.vocab_size, graph_buckets[GraphName.DECODE], steps_per_sync)
        if like
        else (),
    )
    for tensor in stepper.kv_cache.values():
        device.fill(tensor, WRONG)
    scheduler = Scheduler(
        limits.max_num_seqs, own, cross, max_waiting=max_waiting, source_batch_tokens=limits.max_tokens,
        source_batch=limits.max_batch, max_batch_delay_steps=max_batch_delay_steps,
    )  # fmt: skip
    decoding = DecodeLoop(wrap(stepper), own, cross, None, model.vocab_size)
    return GenerationCore(decoding, scheduler, steps_per_sync=steps_per_sync, threads=ThreadPool(1))


def fake_graphs(model: Model, device: FakeDevice) -> dict[GraphName, LoadedGraph]:
    """Return all graphs with their signatures for CUDA."""
    (hidden,) = model.graphs[GraphName.ENCODE_SOURCE].signature.outputs
    signatures = generation_signatures(
        model.limits, *model.shapes, hidden_size=int(hidden.shape[1]), vocab_size=model.vocab_size,
        device="cuda",
    )  # fmt: skip
    return {
        name: LoadedGraph(signature, FakeGraph(device, signature, model.graphs[name].graph))
        for name, signature in signatures.items()
    }


def _counting(end: int) -> Tensor:
    return torch.arange(end, dtype=torch.int32)
