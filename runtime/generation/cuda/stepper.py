"""The stepper of CUDA: captured graphs of steps on one stream, sources on another, the host behind both.

    encoding    sources → encode_source → cross kv_cache                     (a pipeline of its own)
                                        ↓ the first steps of these sources wait, and no others
    steps        rows that begin, batch → graph of N steps → state at its end
                                                                   ↓ computed
    download                                      flags of all rows → host; of some rows more, when asked

Only steps write state and self kv_cache, one launch after the other, so that rows and blocks may be given to the
next request while launches of the last one are still under way: those of the next come behind. What such
a late launch reads in cross blocks that belong to somebody else by then is garbage, in rows that nobody looks
at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.guard import DeviceGuard
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.batch_descriptor import Recipe
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
"""Captured at a time. The one that was not used for longest makes room for a new one."""


class CapturedStepper:
    """Implements ``generation.stepper.Stepper``.

    Args:
        device: used by nobody else's thread from ``prepare`` on.
        bound: the graphs over state and kv_cache.
        state: on the device.
        encode_source: the replay of ``encode_source``.
        buckets: of rows.
        examples: batches whose graphs are captured when it is prepared, the largest first, and their steps.
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
        self.kv_cache = {name: one for name, one in bound.tensors.items() if name not in state.tensors}
        self.kv_cache_bytes = sum(tensor.nbytes for tensor in self.kv_cache.values())
        self._device = device
        self._bound: Bound | None = bound
        self._device_state = state
        self._encode_source = encode_source
        self._buckets = buckets
        self._examples = examples
        self._guard = DeviceGuard()
        self._captures: tuple[CaptureInfo, ...] = ()
        self._programs: dict[Recipe, StepProgram] = {}
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
            answer_bytes, flag_bytes = state.answers.nbytes, state.flags.nbytes
            self._slots = [StepSlot(device, answer_bytes, flag_bytes) for _ in range(self.depth)]
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
        rows: Sequence[int],
        plan: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        assert isinstance(encoding, CapturedSourceEncoding)
        self.state.begin(rows, plan, source_ids, self_slots, cross_slots)
        self._beginning.append((encoding, rows))

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        self._guard.check()
        with self._guard.calls("steps were launched"):
            slot = self._slots[self._launches % self.depth]
            slot.wait()
            self._launches += 1
            self._upload_rows(slot)
            self._run(self._program_of(batch, steps, slot), batch)
            self._put_down(slot)
            return Launch(batch, steps, slot)

    def poll(self, launch: Launch, rows: Sequence[int]) -> None:
        self._guard.check()
        with self._guard.calls("steps were taken"):
            launch.slot.wait()
        at = list(rows)
        for name, found in self._device_state.flags.arrays(launch.slot.flags).items():
            self.state.arrays[name][at] = found[at]

    def fetch(self, launch: Launch, rows: Sequence[int], names: Sequence[str]) -> None:
        with self._guard.calls("answers were fetched"):
            there = self._device_state.answers.tensors(launch.slot.answers)
            for name in names:
                for row in rows:
                    self._device.copy(self.state.tensors[name][row], there[name][row], self._download)
            self._fetched.record(self._download)
            self._fetched.synchronize()

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Nothing to do: the kernels read what a row sees, and nothing else."""

    def close(self) -> None:
        """Free graphs, then what they are bound to, once the device is done with it."""
        try:
            self._device.synchronize()
        except Exception:  # a failed device has nothing left that could be waited for
            pass
        self._programs.clear()
        self.kv_cache = {}
        self._examples, self._beginning, self._slots = (), [], []
        self._bound = None
        self._encode_source.close()
        self._device_state.free()

    def _upload_rows(self, slot: StepSlot) -> None:
        """The state of requests that begin, behind the launches that may still use these rows."""
        if not self._beginning:
            return
        for encoding, _ in self._beginning:
            encoding.before(self._stream)
        rows = [row for _, some in self._beginning for row in some]
        self._beginning = []
        self._device_state.upload(rows, slot.rows, self._stream)

    def _program_of(self, batch: ActiveBatch, steps: int, slot: StepSlot) -> StepProgram:
        """The program of the batch's recipe, with the batch in its inputs."""
        if self._bound is None:
            raise RuntimeError("this stepper was closed")
        recipe = Recipe.of(
            batch, steps, self._buckets, self._bound.graphs[GraphName.LOGITS_PROCESSORS].signature
        )
        program = self._programs.pop(recipe, None) or StepProgram.of(recipe, self._bound, self._device)
        self._programs[recipe] = program
        if len(self._programs) > MOST_PROGRAMS:
            self._device.synchronize()  # it may be running
            del self._programs[next(iter(self._programs))]
        if program.batch is not batch:
            (packed,) = slot.batch.upload([program.packed(batch)], self._stream)
            self._device.copy(program.inputs, packed, self._stream)
            program.batch = batch
        return program

    def _run(self, program: StepProgram, batch: ActiveBatch) -> None:
        """Replay what was captured; the first time, and with a user's code between, run graph by graph."""
        if any(one.processors for one in batch.requests):
            between: Callable[[Tensor], None] = partial(self._process, batch)
            self._device.run(partial(program.run, between), self._stream)
        elif program.graph is not None:
            self._device.replay(program.graph, self._stream)
        else:
            self._device.run(program.run, self._stream)
            self._capture(program)

    def _capture(self, program: StepProgram) -> None:
        """Record what has just been run, which changes nothing."""
        device = self._device
        device.synchronize()
        before, start = device.reserved_bytes(), time.perf_counter()
        program.capture(device, self._stream, self._cache)
        seconds = time.perf_counter() - start
        grown = device.reserved_bytes() - before
        self._captures += (CaptureInfo(program.recipe.rows, seconds, grown),)

    def _process(self, batch: ActiveBatch, scores: Tensor) -> None:
        """Let processors change scores on the host: the steps so far must be over, the next ones wait."""
        device, state = self._device, self._device_state
        host = device.host_memory(scores.nbytes).view(scores.dtype).view(scores.shape)
        device.copy(host, scores, self._stream)
        for name in ("positions", "finished", "history"):
            for row in batch.rows.tolist():
                device.copy(self.state.tensors[name][row], state.tensors[name][row], self._stream)
        device.synchronize()
        apply_processors(batch, self.state, host)
        device.copy(scores, host, self._stream)
        device.synchronize()

    def _put_down(self, slot: StepSlot) -> None:
        """Keep the state as it is now, and let its front come to the host."""
        state, device = self._device_state, self._device
        device.copy(slot.answers, state.block[: state.answers.nbytes], self._stream)
        slot.computed.record(self._stream)
        slot.computed.wait(self._download)
        device.copy(slot.flags, slot.answers[: state.flags.nbytes], self._download)
        slot.flagged.record(self._download)
        slot.in_flight = True
