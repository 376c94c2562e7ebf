"""A simulated asynchronous device: it delays work as far as CUDA may, and records violations of CUDA's rules.

Streams are queues that run late and in random order, restricted only by the guarantees of streams and events.
Memory is poisoned when it is allocated, when it is freed, and where a replay may have used it. Work that
touches freed memory is a violation, and so are two accesses to the same bytes that no event orders, even if
they happen to run in the right order. A captured graph keeps the addresses of its capture. Any call, and any
piece of work, can be made to fail; everything after it fails too.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from random import Random
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.races import Access, Clock, Races

POISON = 0xFF
"""The value of every poisoned byte: NaN as a float, -1 as an integer."""

TOTAL_BYTES = 1 << 30
"""Size of the device memory."""

T = TypeVar("T")
Kind = Literal["host", "device", "stream", "pool"]
Kernel = Callable[[Mapping[str, Tensor], Sequence[Tensor]], None]
"""Reads inputs and writes outputs; raises AssertionError for invalid inputs."""


@dataclass(eq=False)
class Block:
    """An allocation. Blocks of a stream or a memory pool are reused without waiting for other streams."""

    kind: Kind
    data: NDArray[np.uint8]
    owner: object
    live: bool = True

    @property
    def address(self) -> int:
        return int(self.data.ctypes.data)


@dataclass(frozen=True)
class Work:
    """An entry in the queue of a stream."""

    name: str
    do: Callable[[], None]
    ready: Callable[[], bool] = lambda: True
    touches: Sequence[Block] = ()


@dataclass(eq=False)
class FakeStream:
    """A queue of work."""

    name: str
    queue: deque[Work] = field(default_factory=deque)


@dataclass(eq=False)
class FakeGraph:
    """Captured kernels, with the addresses of their capture."""

    pool: object
    work: list[Work] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    outputs: list[Block] = field(default_factory=list)


class FakeEvent:
    """A CUDA event: a marker in a stream that other streams and the host can wait for."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._recorded = self._reached = 0
        self._clock: Clock = {}

    def record(self, stream: FakeStream) -> None:
        self._device.call("record")
        self._recorded += 1
        self._clock = self._device.races.record(stream)
        number = self._recorded

        def reach() -> None:
            self._reached = number

        stream.queue.append(Work("record", reach))

    def wait(self, stream: FakeStream) -> None:
        self._device.call("wait")
        stream.queue.append(Work("wait", lambda: None, ready=self._condition()))
        self._device.races.wait(stream, self._clock)

    def synchronize(self) -> None:
        self._device.call("synchronize")
        self._device.on_synchronize()
        self._device.run_until(self._condition())
        self._device.races.synchronize(self._clock)

    def query(self) -> bool:
        self._device.call("query")
        reached = self._condition()()
        if reached:
            self._device.races.synchronize(self._clock)
        return reached

    def _condition(self) -> Callable[[], bool]:
        number = self._recorded
        return lambda: self._reached >= number


def _raw(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, which compare equal where NaN does not."""
    return tensor.reshape(-1).view(torch.uint8)


class FakeDevice:
    """The simulated device, with the interface of the CUDA device of the runtime.

    Args:
        seed: Seed of the order in which work runs.
        fail_call: Index of the first call that raises; all later calls raise too.
        fail_work: Index of the piece of work that fails; all calls after it raise.
        on_synchronize: Called when the host starts to wait for an event.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        fail_call: int | None = None,
        fail_work: int | None = None,
        on_synchronize: Callable[[], None] = lambda: None,
    ) -> None:
        self.violations: list[str] = []
        self.calls: list[str] = []
        self.done: list[str] = []
        self.races = Races()
        self.on_synchronize = on_synchronize
        self._random = Random(seed)
        self.eagerness = self._random.choice([0.0, 0.0, 0.3, 0.9])
        self._fail_call, self._fail_work = fail_call, fail_work
        self._lost = False
        self._thread: int | None = None
        self._streams: list[FakeStream] = []
        self._blocks: list[Block] = []
        self._current: FakeStream | None = None
        self._capturing: FakeGraph | None = None
        self._loaded: set[object] = set()

    def open(self) -> None:
        self._thread = threading.get_ident()
        self.call("open")

    def stream(self) -> FakeStream:
        self.call("stream")
        self._streams.append(FakeStream(f"stream {len(self._streams)}"))
        return self._streams[-1]

    def event(self) -> FakeEvent:
        self.call("event")
        return FakeEvent(self)

    def pool(self) -> object:
        self.call("pool")
        return object()

    def memory(self, size: int) -> Tensor:
        self.call("memory")
        return self._allocate(size, "device", None)

    def host_memory(self, size: int) -> Tensor:
        self.call("host_memory")
        return self._allocate(size, "host", None)

    def copy(self, target: Tensor, source: Tensor, stream: FakeStream) -> None:
        self.call("copy")
        if (target.shape, target.dtype) != (source.shape, source.dtype):
            self._violation(f"a copy from {source.shape} {source.dtype} to {target.shape} {target.dtype}")
        (to, to_block), (of, of_block) = self._memory_of(target), self._memory_of(source)
        name = f"copy {of_block.kind} to {to_block.kind}"
        accesses = [self._access(target, write=True), self._access(source, write=False)]
        submitted = of.clone() if of_block.kind == "host" else None

        def do() -> None:
            assert submitted is None or torch.equal(_raw(of), _raw(submitted)), (
                "the host changed the source before it was copied"
            )
            to.copy_(of)

        self._put(stream, Work(name, do, touches=[to_block, of_block]), accesses)

    def scatter(self, target: Tensor, index: Tensor, source: Tensor, stream: FakeStream) -> None:
        self.call("scatter")
        if index.dtype != torch.int64 or source.dtype != target.dtype or index.shape != source.shape:
            self._violation(f"a scatter of {source.shape} {source.dtype} at {index.shape} {index.dtype}")
        (to, to_block), (at, at_block) = self._memory_of(target), self._memory_of(index)
        of, of_block = self._memory_of(source)
        accesses = [self._access(target, write=True)]
        accesses += [self._access(tensor, write=False) for tensor in (index, source)]

        def do() -> None:
            assert ((at >= 0) & (at < len(to))).all(), "an index beyond the target"
            to[at] = of

        self._put(stream, Work("scatter", do, touches=[to_block, at_block, of_block]), accesses)

    def run(self, work: Callable[[], T], stream: FakeStream) -> T:
        self.call("run")
        self._current = stream
        try:
            return work()
        finally:
            self._current = None

    def capture(self, work: Callable[[], T], stream: FakeStream, pool: object) -> tuple[FakeGraph, T]:
        self.call("capture")
        self._current, self._capturing = stream, FakeGraph(pool)
        try:
            return self._capturing, work()
        finally:
            self._current = self._capturing = None

    def replay(self, graph: FakeGraph, stream: FakeStream) -> None:
        """Launch a captured graph. It may use all memory of its pool: everything but its outputs is lost."""
        self.call("replay")
        pool = [block for block in self._blocks if block.owner is graph.pool]

        def do() -> None:
            for block in pool:
                block.data[:] = POISON
            for work in graph.work:
                work.do()

        touches = [*graph.outputs, *(block for work in graph.work for block in work.touches)]
        accesses = [Access(block, 0, len(block.data), write=True) for block in pool]
        self._put(stream, Work("replay", do, touches=touches), [*accesses, *graph.accesses])

    def kernel(
        self,
        function: Kernel,
        inputs: Mapping[str, Tensor],
        shapes: Sequence[tuple[int, ...]],
        *,
        dtype: torch.dtype = torch.float32,
        writes: Collection[str] = (),
        untracked: Collection[str] = (),
    ) -> list[Tensor]:
        """Launch a kernel, as a compiled graph does, and return its outputs, which are computed later.

        Args:
            function: The computation.
            inputs: The inputs by name.
            shapes: The shapes of the outputs.
            dtype: The dtype of the outputs, of 4 bytes.
            writes: Names of inputs that the kernel writes.
            untracked: Names of inputs that concurrent work may share because each uses slots of its own;
                tests see from the outputs whether it does.
        """
        stream, graph = self._current, self._capturing
        if stream is None:
            self._violation("a kernel on the default stream")
            raise RuntimeError("no current stream")
        self._count("kernel")
        owner: object = stream if graph is None else graph.pool
        outputs = [
            self._allocate(prod(shape) * 4, "stream" if graph is None else "pool", owner)
            .view(dtype)
            .view(shape)
            for shape in shapes
        ]
        read = {name: self._memory_of(tensor) for name, tensor in inputs.items()}
        written = [self._memory_of(tensor) for tensor in outputs]
        work = Work(
            "kernel",
            lambda: function({name: raw for name, (raw, _) in read.items()}, [raw for raw, _ in written]),
            touches=[block for _, block in [*read.values(), *written]],
        )
        accesses = [
            self._access(tensor, write=name in writes)
            for name, tensor in inputs.items()
            if name not in untracked
        ]
        accesses += [self._access(tensor, write=True) for tensor in outputs]
        if graph is None:
            self._loaded.add(tuple(shapes))
            self._put(stream, work, accesses)
        else:
            if tuple(shapes) not in self._loaded:
                self._violation(f"a kernel of outputs {shapes} is loaded inside a capture")
            graph.work.append(work)
            graph.accesses += accesses
            graph.outputs += [block for _, block in written]
        return outputs

    def memory_bytes(self) -> tuple[int, int]:
        self.call("memory_bytes")
        return TOTAL_BYTES - self.used_bytes(), TOTAL_BYTES

    def used_bytes(self) -> int:
        return sum(len(block.data) for block in self._blocks if block.live and block.kind != "host")

    def reserved_bytes(self) -> int:
        self.call("reserved_bytes")
        return sum(len(block.data) for block in self._blocks if block.kind != "host")

    def trim(self) -> None:
        self.call("trim")

    def synchronize(self) -> None:
        self.call("synchronize device")
        self.run_until(lambda: not any(stream.queue for stream in self._streams))
        self.races.synchronize_all()

    def fill(self, tensor: Tensor, value: float) -> None:
        """Write memory immediately, to set up a test."""
        self._memory_of(tensor)[0].fill_(value)

    def fail_next(self) -> None:
        """Make the next call and all later ones raise."""
        self._fail_call = len(self.calls)

    def live_blocks(self, kinds: Collection[Kind] = ("host", "device", "stream", "pool")) -> int:
        return sum(block.live and block.kind in kinds for block in self._blocks)

    def call(self, name: str) -> None:
        """Start a call: it may fail, and queued work may run."""
        if self._capturing is not None:
            self._violation(f"{name} during a capture")
        self._count(name)
        while self._random.random() < self.eagerness and self._step():
            pass

    def run_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if not self._step() and not self._lost:
                self._violation("a wait for an event that never happens")
                self._lost = True
            self._raise_if_lost()
        self._raise_if_lost()

    def _count(self, name: str) -> None:
        if threading.get_ident() != self._thread:
            self._violation(f"{name} from a thread that did not open the device")
        self._raise_if_lost()
        self.calls.append(name)
        if len(self.calls) - 1 == self._fail_call:
            self._lost = True
            self._raise_if_lost()

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise RuntimeError("CUDA error: a made-up failure\nmore lines")

    def _step(self) -> bool:
        """Run the next piece of work of a random stream; return False if no stream is ready."""
        ready = [stream for stream in self._streams if stream.queue and stream.queue[0].ready()]
        if not ready or self._lost:
            return False
        work = self._random.choice(ready).queue.popleft()
        if len(self.done) == self._fail_work:
            self._lost = True
            return False
        self.done.append(work.name)
        # Freed memory of a pool still belongs to its graphs; a later reader finds it poisoned.
        if not all(block.live or block.kind == "pool" for block in work.touches):
            self._violation(f"{work.name} touches memory that was freed")
        try:
            work.do()
        except AssertionError as error:
            self._violation(f"{work.name}: {error}")
        return True

    def _put(self, stream: FakeStream, work: Work, accesses: Sequence[Access]) -> None:
        for race in self.races.work(stream, work.name, accesses):
            self._violation(race)
        stream.queue.append(work)

    def _violation(self, what: str) -> None:
        self.violations.append(what)

    def _allocate(
        self, size: int, kind: Literal["host", "device", "stream", "pool"], owner: object
    ) -> Tensor:
        buffer = np.full(size + 256, POISON, np.uint8)
        start = -int(buffer.ctypes.data) % 256
        block = Block(kind, buffer[start : start + size], owner)
        handed_out = block.data[:]
        weakref.finalize(handed_out, self._freed, block).atexit = False
        self._blocks.append(block)
        return torch.from_numpy(handed_out)

    def _freed(self, block: Block) -> None:
        """Poison freed memory: that of a stream when the stream gets there, all other memory immediately."""

        def poison() -> None:
            block.live = False
            block.data[:] = POISON

        if isinstance(block.owner, FakeStream):
            access = Access(block, 0, len(block.data), write=True)
            self._put(block.owner, Work("reuse of freed memory", poison), [access])
            return
        queued = [work for stream in self._streams for work in stream.queue]
        if block.kind != "pool" and not self._lost and any(block in work.touches for work in queued):
            self._violation(f"{block.kind} memory is freed while work on it is queued")
        poison()

    def _memory_of(self, tensor: Tensor) -> tuple[Tensor, Block]:
        """Return a tensor on the same bytes that does not keep them alive, and its block."""
        assert tensor.is_contiguous()
        at, size = tensor.data_ptr(), tensor.nbytes
        for block in reversed(self._blocks):
            if block.live and block.address <= at and at + size <= block.address + len(block.data):
                start = at - block.address
                raw = torch.from_numpy(block.data[start : start + size])
                return raw.view(tensor.dtype).view(tensor.shape), block
        self._violation("memory that does not belong to the device")
        raise RuntimeError("illegal address")

    def _access(self, tensor: Tensor, *, write: bool) -> Access:
        _, block = self._memory_of(tensor)
        start = tensor.data_ptr() - block.address
        return Access(block, start, start + tensor.nbytes, write)
