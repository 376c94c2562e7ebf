"""The engine for asyncio: the same calls, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from precast.artifacts.manifest import Manifest
from precast.runtime.encoder import tasks as calls
from precast.runtime.encoder.tasks import Call
from precast.runtime.generation.engine import collect
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.io.inputs import split

if TYPE_CHECKING:
    from precast.runtime.encoder.engine import Encoder
    from precast.runtime.generation.engine import Seq2Seq


Options = ParamSpec("Options")


def _awaiting(
    make: Callable[Concatenate[Manifest, Options], Call],
) -> Callable[Concatenate[AsyncEncoder, Options], Coroutine[Any, Any, Any]]:
    """A method that runs a call and awaits its result; arguments and documentation are the call's."""

    @wraps(make)
    async def method(self: AsyncEncoder, *args: Options.args, **options: Options.kwargs) -> Any:
        call = make(self.manifest, *args, **options)
        answers = await asyncio.to_thread(self.start, call)
        await asyncio.wrap_future(answers.complete)
        return call.result(answers.found())

    return method


class AsyncEncoder:
    """``Encoder``'s methods as coroutines, made by ``Encoder.aio``; options are the same.

    Requests of all tasks meet in one queue and are packed together. Tokenization runs in a thread and
    the event loop is never blocked.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.manifest = encoder.manifest
        self.start = encoder.start

    encode = _awaiting(calls.encode)
    embed = _awaiting(calls.embed)
    classify = _awaiting(calls.classify)
    predict = _awaiting(calls.predict)
    rank = _awaiting(calls.rank)


class AsyncSeq2Seq:
    """``Seq2Seq`` for asyncio, made by ``Seq2Seq.aio``; options are the same.

    Tokenization runs in a thread and the event loop is never blocked. A cancelled task cancels its request.
    """

    def __init__(self, engine: Seq2Seq) -> None:
        self.manifest = engine.manifest
        self._engine = engine

    async def generate(
        self,
        inputs: Any,
        *,
        parameters: Sequence[Mapping[str, Any]] | None = None,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Any:
        """As ``Seq2Seq.generate``."""
        values, single = split(inputs, pairs=False)
        futures = await self._start(values, parameters, timeout, options)
        found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        return collect(found, single, return_exceptions)

    async def stream(self, value: Any, *, timeout: float | None = None, **options: Any) -> AsyncIterator[str]:
        """As ``Seq2Seq.stream``: an asynchronous iterator over pieces of text."""
        with await asyncio.to_thread(self._engine.stream, value, timeout=timeout, **options) as pieces:
            while piece := await asyncio.to_thread(next, pieces, ""):
                yield piece

    async def encode(self, inputs: Any, **options: Any) -> Any:
        """As ``Seq2Seq.encode``."""
        return await asyncio.to_thread(partial(self._engine.encode, inputs, **options))

    async def _start(self, *arguments: Any) -> list[Future[GenerateOutput]]:
        """As ``Seq2Seq.start``; its thread goes on when the task is cancelled, and must leave no requests."""
        given_up = threading.Event()
        started: list[Future[GenerateOutput]] = []

        def start() -> None:
            started.extend(self._engine.start(*arguments))
            if given_up.is_set():
                cancel()

        def cancel() -> None:
            for future in started:
                future.cancel()

        try:
            await asyncio.to_thread(start)
        except asyncio.CancelledError:
            given_up.set()
            cancel()
            raise
        return started
