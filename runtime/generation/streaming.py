"""Streams the text of one request, as an iterator and for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from precast.runtime.futures import ResultFuture, seconds_until
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.io.detokenization import TextStream


class TextPieces(Iterator[str]):
    """Iterates over pieces of text; joined they equal the output's ``text``.

    Closing the iterator, or garbage-collecting it before its end, cancels the request.

    Args:
        request: The request, not queued yet.
        text: A text stream that has decoded the prefix.
        prefix_text: The text of the prefix.
    """

    def __init__(self, request: Request, text: TextStream, prefix_text: str = "") -> None:
        self._request = request
        self._text = text
        self._pending = prefix_text
        self._ended = False
        tokens: SimpleQueue[np.ndarray | None] = SimpleQueue()
        self._tokens = tokens
        # The callbacks must not refer to this object: its garbage collection cancels the request.
        request.on_tokens = tokens.put
        request.future.add_engine_callback(lambda _: tokens.put(None))

    def __next__(self) -> str:
        """Return the next piece, never an empty one.

        Raises:
            StopIteration: The output is complete.
            InferenceError: The error that ended the request.
        """
        piece, self._pending = self._pending, ""
        while not piece:
            if self._ended:
                raise StopIteration
            ids = self._next_tokens()
            if ids is None:
                self._ended = True
                self._check()
                piece = self._text.end()
            else:
                piece = "".join([self._text.put(int(token)) for token in ids])
        return piece

    def result(self, timeout: float | None = None) -> GenerateOutput:
        """Wait for the complete output and return it, during or after the iteration.

        Raises:
            InferenceError: The error that ended the request.
            TimeoutError: There is no output after ``timeout`` seconds.
        """
        return self._request.future.result(timeout)

    def close(self) -> None:
        """Cancel the request if it has not finished."""
        self._request.future.cancel()

    def __enter__(self) -> TextPieces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _next_tokens(self) -> np.ndarray | None:
        """Wait for new tokens; return None once the request has ended."""
        future = self._request.future
        future.check_waiting()
        while True:
            try:
                return self._tokens.get(timeout=seconds_until(None if future.done() else future.deadline))
            except Empty:
                future.expire()  # its callback puts None

    def _check(self) -> None:
        try:
            error = self._request.future.exception()
        except CancelledError:  # by close
            raise StopIteration from None
        if error is not None:
            raise error


async def stream_tokens(request: Request, submit: Callable[[Request], None]) -> AsyncIterator[np.ndarray]:
    """Queue a request and iterate over its new tokens, without blocking a thread.

    Leaving the iteration before its end cancels the request.

    Args:
        request: The request, not queued yet.
        submit: Queues the request.

    Raises:
        InferenceError: The error that ended the request.
    """
    loop, future = asyncio.get_running_loop(), request.future
    tokens: asyncio.Queue[np.ndarray | None] = asyncio.Queue()
    request.on_tokens = partial(call_soon, loop, tokens.put_nowait)
    future.add_engine_callback(lambda _: call_soon(loop, tokens.put_nowait, None))
    submit(request)
    try:
        while (ids := await _get(tokens, future)) is not None:
            yield ids
        error = future.exception()
        if error is not None:
            raise error
    finally:
        future.cancel()


async def _get(
    tokens: asyncio.Queue[np.ndarray | None], future: ResultFuture[GenerateOutput]
) -> np.ndarray | None:
    try:
        async with asyncio.timeout(seconds_until(future.deadline)):
            return await tokens.get()
    except TimeoutError:
        future.expire()
        return await tokens.get()


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in the thread of an event loop, unless the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
