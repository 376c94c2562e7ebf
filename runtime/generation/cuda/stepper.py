"""The CUDA stepper: captured graphs of steps on one stream, source encoding on another, the host behind both.

    encoding     sources → encode_source → cross-attention KV cache           (a pipeline of its own)
                                        ↓ awaited by the first steps of these sources only
    steps        new sequences, batch → graph of N steps → state after them
                                                                   ↓ computed
    download                                      flags of all sequences → host; more of some on demand

Only steps write the state and the self-attention KV cache, one launch after another. So sequences and blocks
may be given to the next request while launches of the previous one are in flight: launches of the next one
run later. If such a late launch reads cross-attention blocks that now belong to another request, its result
is garbage in sequences that are no longer read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from torch import Tensor

from precast.graphs.buckets import Buckets
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.guard import DeviceGuard
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.batch_descriptor import BatchDescriptor
from precast.runtime.generation.cuda.device_state import DeviceState
from precast.runtime.generation.cuda.encode_source import CapturedSourceEncoding, EncodeSourceReplay
from precast.runtime.generation.cuda.program import Bound, StepProgram
from precast.runtime.generation.cuda.staging import StepSlot
from precast.runtime.generation.logits_processors import apply_processors
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import Launch, SourceEncoding
from precast.runtime.replay import CaptureInfo

MOST_PROGRAMS = 256
"""Most captured graphs; the least recently used one is evicted."""


class CapturedStepper:
    """Implements ``generation.stepper.Stepper`` on CUDA.

    Args:
        device: The device; used by one thread only from ``prepare`` on.
        bound: The graphs, with state and KV cache.
        state: The state on the device.
        encode_source: The replay of ``encode_source``.
        buckets: Buckets of sequences.
        examples: Batches whose graphs ``prepare`` captures, the largest first, and their steps.
    """

    depth = 2
    state: DecoderState

    def __init__(
        self,
        device: Device,
        bound: Bound,
        state: DeviceState,
        encode_source: EncodeSourceReplay,
        buckets: Buckets,
        examples: Sequence[tuple[ActiveBatch, int]] = (),
    ) -> None:
        self.state = state.host
        self.kv_cache = {name: tensor for name, tensor in bound.tensors.items() if name not in state.tensors}
        self.kv_cache_bytes = sum(tensor.nbytes for tensor in self.kv_cache.values())
        self._device = device
        self._bound: Bound | None = bound
        self._device_state = state
        self._encode_source = encode_source
        self._buckets = buckets
        self._examples = examples
        self._guard = DeviceGuard()
        self._captures: tuple[CaptureInfo, ...] = ()
        self._programs: dict[BatchDescriptor, StepProgram] = {}
        self._beginning: list[tuple[CapturedSourceEncoding, Sequence[int]]] = []
        self._launches = 0

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        return self._encode_source.captures + self._captures

    def prepare(self) -> None:
        with self._guard.calls("it was set up"):
            device, state = self._device, self._device_state
            device.open()
            self._stream, self._download = device.stream(), device.stream()
            self._cache = device.pool()
            self._fetched = device.event()
            output_bytes, flag_bytes = state.outputs.nbytes, state.flags.nbytes
            self._slots = [StepSlot(device, output_bytes, flag_bytes) for _ in range(self.depth)]
            self._encode_source.prepare()
            state.clear(self._stream)
            for batch, steps in self._examples:
                self.launch(batch, steps)
            state.clear(self._stream)
            device.synchronize()
            device.trim()

    def can_encode(self) -> bool:
        with self._guard.calls("sources were encoded"):
            return self._encode_source.free()

    def encode_sources(
        self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray], *, hidden: bool
    ) -> CapturedSourceEncoding:
        self._guard.check()
        with self._guard.calls("sources were encoded"):
            return self._encode_source.launch(sources, slots, hidden=hidden)

    def begin(
        self,
        encoding: SourceEncoding,
        seq_ids: Sequence[int],
        params: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        assert isinstance(encoding, CapturedSourceEncoding)
        self.state.begin(seq_ids, params, source_ids, self_slots, cross_slots)
        self._beginning.append((encoding, seq_ids))

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        self._guard.check()
        with self._guard.calls("steps were launched"):
            slot = self._slots[self._launches % self.depth]
            slot.wait()
            self._launches += 1
            self._upload_sequences(slot)
            self._run(self._program_of(batch, steps, slot), batch)
            self._snapshot(slot)
            return Launch(batch, steps, slot)

    def poll(self, launch: Launch, seq_ids: Sequence[int]) -> None:
        self._guard.check()
        with self._guard.calls("steps were polled"):
            launch.slot.wait()
        at = list(seq_ids)
        for name, values in self._device_state.flags.arrays(launch.slot.flags).items():
            self.state.arrays[name][at] = values[at]

    def fetch(self, launch: Launch, seq_ids: Sequence[int], names: Sequence[str]) -> None:
        with self._guard.calls("outputs were fetched"):
            source = self._device_state.outputs.tensors(launch.slot.outputs)
            for name in names:
                for seq_id in seq_ids:
                    self._device.copy(self.state.tensors[name][seq_id], source[name][seq_id], self._download)
            self._fetched.record(self._download)
            self._fetched.synchronize()

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Do nothing: the CUDA kernels never read masked slots."""

    def close(self) -> None:
        """Wait for the device, then free the graphs and the memory they are bound to."""
        with suppress(Exception):  # a failed device has no work left to wait for
            self._device.synchronize()
        self._programs.clear()
        self.kv_cache = {}
        self._examples, self._beginning, self._slots = (), [], []
        self._bound = None
        self._encode_source.close()
        self._device_state.free()

    def _upload_sequences(self, slot: StepSlot) -> None:
        """Upload the state of new requests, behind launches that may still use their sequences."""
        if not self._beginning:
            return
        for encoding, _ in self._beginning:
            encoding.before(self._stream)
        seq_ids = [seq_id for _, some in self._beginning for seq_id in some]
        self._beginning = []
        self._device_state.upload(seq_ids, slot.state, self._stream)

    def _program_of(self, batch: ActiveBatch, steps: int, slot: StepSlot) -> StepProgram:
        """Return the program for a batch, with the batch uploaded to its inputs."""
        if self._bound is None:
            raise RuntimeError("this stepper was closed")
        descriptor = BatchDescriptor.of(batch, steps, self._buckets, self._bound.limits)
        program = self._programs.pop(descriptor, None)
        program = program or StepProgram.of(descriptor, self._bound, self._device)
        self._programs[descriptor] = program
        if len(self._programs) > MOST_PROGRAMS:
            self._device.synchronize()  # it may be running
            del self._programs[next(iter(self._programs))]
        if program.batch is not batch:
            (packed,) = slot.batch.upload([program.packed(batch)], self._stream)
            self._device.copy(program.inputs, packed, self._stream)
            program.batch = batch
        return program

    def _run(self, program: StepProgram, batch: ActiveBatch) -> None:
        """Replay the captured graph; the first time, or with Python logits processors, run graph by graph."""
        if any(request.processors for request in batch.requests):
            between: Callable[[Tensor], None] = partial(self._process, batch)
            self._device.run(partial(program.run, between), self._stream)
        elif program.graph is not None:
            self._device.replay(program.graph, self._stream)
        else:
            self._device.run(program.run, self._stream)
            self._capture(program)

    def _capture(self, program: StepProgram) -> None:
        """Capture the steps that have just run; capturing computes nothing."""
        device = self._device
        device.synchronize()
        before, start = device.reserved_bytes(), time.perf_counter()
        program.capture(device, self._stream, self._cache)
        seconds = time.perf_counter() - start
        grown = device.reserved_bytes() - before
        self._captures += (CaptureInfo(program.descriptor.num_seqs, seconds, grown),)

    def _process(self, batch: ActiveBatch, scores: Tensor) -> None:
        """Let logits processors change the scores on the host, between two synchronizations."""
        device, state = self._device, self._device_state
        host = device.host_memory(scores.nbytes).view(scores.dtype).view(scores.shape)
        device.copy(host, scores, self._stream)
        for name in ("positions", "finished", "history"):
            for seq_id in batch.seq_ids.tolist():
                device.copy(self.state.tensors[name][seq_id], state.tensors[name][seq_id], self._stream)
        device.synchronize()
        apply_processors(batch, self.state, host)
        device.copy(scores, host, self._stream)
        device.synchronize()

    def _snapshot(self, slot: StepSlot) -> None:
        """Copy the state for later ``fetch`` calls, and start the download of its flags."""
        state, device = self._device_state, self._device
        device.copy(slot.outputs, state.block[: state.outputs.nbytes], self._stream)
        slot.computed.record(self._stream)
        slot.computed.wait(self._download)
        device.copy(slot.flags, slot.outputs[: state.flags.nbytes], self._download)
        slot.flagged.record(self._download)
        slot.in_flight = True
