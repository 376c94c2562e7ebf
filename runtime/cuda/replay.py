"""Replay of captured graphs: one for each bucket, all bound to the same static inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from precast.graphs.buckets import Buckets
from precast.graphs.signature import Signature
from precast.runtime.cuda.device import CapturedGraph, Device, MemPool, Stream
from precast.runtime.cuda.dispatch import BucketDispatcher, ReplayShape
from precast.runtime.cuda.guard import DeviceGuard
from precast.runtime.cuda.layout import Layout
from precast.runtime.cuda.streams import Pipeline, Slot
from precast.runtime.replay import CaptureInfo, Graph, HostBuffers


@dataclass(frozen=True)
class CaptureOptions:
    """Options of a captured replay.

    Attributes:
        largest: Size of each axis in the largest batch.
        upto: Buckets up to this size are captured by ``prepare``, the others when a batch first needs them.
        fill_example: Writes a valid batch into the buffers of a bucket.
    """

    largest: Mapping[str, int]
    upto: int
    fill_example: Callable[[HostBuffers], None]


@dataclass(frozen=True, eq=False)
class _Captured:
    """A captured graph.

    Attributes:
        graph: The graph.
        inputs: The tensors that it reads; the references keep their memory allocated.
        outputs: The tensors that it writes; the next replay of any bucket may overwrite them.
    """

    graph: CapturedGraph
    inputs: Mapping[str, Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True)
class _Staged:
    """Buffers that ``buffers_for`` returned and that are not launched yet."""

    buffers: HostBuffers
    slot: Slot
    shape: ReplayShape
    outputs: Layout


@dataclass(frozen=True)
class InFlight:
    """A launch on the device."""

    outputs: Layout
    slot: Slot
    wait: Callable[[Slot], None]

    def result(self) -> list[Tensor]:
        """Wait for the outputs and return them."""
        self.wait(self.slot)
        return list(self.outputs.tensors(self.slot.host_outputs).values())

    def done(self) -> bool:
        """Return whether the launch has finished."""
        return not self.slot.in_flight or self.slot.downloaded.query()

    def before(self, stream: Stream) -> None:
        """Make ``stream`` wait for the graph."""
        self.slot.computed.wait(stream)


class CapturedReplay:
    """Implements ``Replay`` by captured graphs. Batches above the top bucket call the graph directly.

    Args:
        signature: Signature of the graph.
        graph: The loaded graph, which puts its work on the device's current stream and returns; its outputs
            belong to that stream.
        buckets: Buckets of the graph.
        device: The device that the graph was loaded on; only the thread that calls ``prepare`` uses it.
        options: Sizes, and the buckets to capture.
    """

    depth = 2
    idle_timeout = None

    def __init__(
        self, signature: Signature, graph: Graph, buckets: Buckets, device: Device, options: CaptureOptions
    ) -> None:
        self.signature = signature
        self.captures: tuple[CaptureInfo, ...] = ()
        self._graph: Graph | None = graph
        self._device = device
        self._options = options
        self._buckets = BucketDispatcher(signature, buckets, options.largest)
        self._pipeline: Pipeline | None = None
        self._pool: MemPool = None
        self._captured: dict[int, _Captured] = {}
        self._staged: _Staged | None = None
        self._guard = DeviceGuard()

    def suspend(self) -> None:
        """Do nothing: a device has no threads to release."""

    def prepare(self) -> None:
        """Allocate memory, capture buckets and run each captured one once.

        Raises:
            DeviceFailedError: A call of the device failed.
        """
        output_bytes = Layout.of(self.signature.outputs, self._options.largest).nbytes
        with self._guard.calls("it was set up"):
            self._device.open()
            self._pipeline = Pipeline(self._device, self.depth, self._buckets.input_bytes(), output_bytes)
            self._pool = self._device.pool()
        for bucket in self._buckets.in_use():
            if bucket <= self._options.upto:
                self._run_example(bucket)
        with self._guard.calls("memory was given back"):
            self._device.trim()  # memory of the uncaptured runs; captured graphs have their own pool

    def free(self) -> bool:
        """Return whether fewer than ``depth`` launches are in flight."""
        return self._running().free()

    def buffers_for(self, needed: Mapping[str, int], *, outputs: bool = True) -> HostBuffers:
        """As ``Replay.buffers_for``; without ``outputs`` no output is copied to the host."""
        pipeline = self._running()
        for axis in self.signature.axes:
            if needed[axis.name] > self._options.largest[axis.name]:
                raise ValueError(
                    f"memory was set up for {self._options.largest[axis.name]} {axis.name}, "
                    f"a batch needs {needed[axis.name]}"
                )
        slot, shape = pipeline.next_slot(), self._buckets.shape_for(needed)
        buffers = HostBuffers(shape.sizes, shape.inputs.arrays(slot.host_inputs))
        taken = needed if outputs else dict.fromkeys(needed, 0)
        self._staged = _Staged(buffers, slot, shape, Layout.of(self.signature.outputs, taken))
        return buffers

    def launch(self, buffers: HostBuffers) -> InFlight:
        """As ``Replay.launch``."""
        pipeline, staged = self._running(), self._staged
        if staged is None or staged.buffers is not buffers:
            raise RuntimeError("launch expects the buffers that buffers_for returned last, once")
        self._staged = None
        run = self._run_direct if staged.shape.bucket is None else self._run_captured
        with self._guard.calls("a batch was launched"):
            pipeline.launch(staged.slot, staged.shape.inputs, partial(run, staged.shape), staged.outputs)
        return InFlight(staged.outputs, staged.slot, self._wait)

    def close(self) -> None:
        """Wait for the device, then free the graphs and the memory they are bound to."""
        with suppress(Exception):  # a failed device has no work left to wait for
            self._device.synchronize()
        self._staged = None
        self._captured.clear()
        self._pool = self._pipeline = self._graph = None
        with suppress(Exception):  # as above
            self._device.trim()

    def _run_example(self, bucket: int) -> None:
        """Capture a bucket by its first launch."""
        largest = self._options.largest
        buffers = self.buffers_for(
            {axis.name: min(bucket, largest[axis.name]) for axis in self.signature.axes}
        )
        self._options.fill_example(buffers)
        self.launch(buffers).result()

    def _run_direct(self, shape: ReplayShape) -> list[Tensor]:
        # The outputs are freed after they are copied. They belong to the compute stream, which reuses their
        # memory only after that copy.
        return self._device.run(partial(self._call, shape, self._inputs(shape)), self._running().compute)

    def _run_captured(self, shape: ReplayShape) -> list[Tensor]:
        assert shape.bucket is not None
        captured = self._captured.get(shape.bucket) or self._capture(shape, shape.bucket)
        self._device.replay(captured.graph, self._running().compute)
        return captured.outputs

    def _capture(self, shape: ReplayShape, bucket: int) -> _Captured:
        """Capture a bucket while the static inputs hold a batch of it.

        The graph is run first: its first run loads kernels, selects library kernels and allocates
        workspaces, none of which is allowed inside a capture.
        """
        device, compute = self._device, self._running().compute
        inputs = self._inputs(shape)
        work = partial(self._call, shape, inputs)
        device.run(work, compute)
        device.synchronize()
        before, start = device.reserved_bytes(), time.perf_counter()
        graph, outputs = device.capture(work, compute, self._pool)
        seconds = time.perf_counter() - start
        self._captured[bucket] = _Captured(graph, inputs, outputs)
        self.captures += (CaptureInfo(bucket, seconds, device.reserved_bytes() - before),)
        return self._captured[bucket]

    def _call(self, shape: ReplayShape, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        if self._graph is None:
            raise RuntimeError("this replay was closed")
        outputs = self._graph(inputs)
        self.signature.check_outputs(outputs, shape.sizes)
        return outputs

    def _inputs(self, shape: ReplayShape) -> dict[str, Tensor]:
        """Return checked views of the static inputs: a graph bound to other memory would read stale data."""
        block = self._running().static_inputs
        inputs = shape.inputs.tensors(block)
        self.signature.check(inputs, shape.sizes)
        for field in shape.inputs.fields:
            if inputs[field.name].data_ptr() != block.data_ptr() + field.offset:
                raise RuntimeError(f"{field.name} does not lie in the static inputs")
        return inputs

    def _running(self) -> Pipeline:
        self._guard.check()
        if self._pipeline is None:
            raise RuntimeError("this replay was closed, or not prepared yet")
        return self._pipeline

    def _wait(self, slot: Slot) -> None:
        pipeline = self._running()
        with self._guard.calls("a batch was computed"):
            pipeline.wait(slot)
