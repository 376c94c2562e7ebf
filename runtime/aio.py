"""Engines for asyncio: the same calls as coroutines, which do not occupy asyncio's default executor.

Inputs are tokenized and queued in a few threads of the engine; waiting for results takes no thread. A
cancelled task stops tokenizing, and cancels its queued requests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from precast.runtime.batch_result import BatchResult, collect
from precast.runtime.encoder import classification, tasks
from precast.runtime.encoder.tasks import EncodeTask
from precast.runtime.errors import InferenceError
from precast.runtime.futures import ResultFuture, deadline_of, outcome_of, seconds_until
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.generation.streaming import call_soon, stream_tokens
from precast.runtime.io.inputs import split
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokenization import Truncate

if TYPE_CHECKING:
    from precast.runtime.encoder.engine import Encoder
    from precast.runtime.generation.engine import Seq2Seq

T = TypeVar("T")


class AsyncEncoder:
    """The methods of ``Encoder`` as coroutines, with the same options; returned by ``Encoder.aio``."""

    def __init__(self, engine: Encoder) -> None:
        self.manifest = engine.manifest
        self._engine = engine

    async def encode(self, inputs: Any, **options: Any) -> Any:
        """Return the output of the artifact's task for each input, as ``Encoder.encode``."""
        return await self._run(tasks.encode, inputs, **options)

    async def embed(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return sentence embeddings, as ``Encoder.embed``."""
        return await self._run(tasks.embed, inputs, **options)

    async def encode_query(self, inputs: Any, **options: Any) -> Any:
        """Return embeddings of queries, as ``Encoder.encode_query``."""
        return await self.embed(inputs, **tasks.with_prompt_of(self.manifest, options, tasks.QUERY_PROMPTS))

    async def encode_document(self, inputs: Any, **options: Any) -> Any:
        """Return embeddings of documents, as ``Encoder.encode_document``."""
        return await self.embed(
            inputs, **tasks.with_prompt_of(self.manifest, options, tasks.DOCUMENT_PROMPTS)
        )

    async def classify(self, inputs: Any, **options: Any) -> Any:
        """Return labels and scores, as ``Encoder.classify``."""
        return await self._run(classification.classify, inputs, **options)

    async def predict(self, inputs: Any, **options: Any) -> Any:
        """Return scores of pairs of texts, as ``Encoder.predict``."""
        return await self._run(classification.predict, inputs, **options)

    async def rank(self, query: str, documents: Sequence[str], **options: Any) -> Any:
        """Return documents ranked by their score for ``query``, as ``Encoder.rank``."""
        return await self._run(classification.rank, query, documents, **options)

    async def _run(
        self,
        make: Callable[..., EncodeTask],
        *inputs: Any,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        deadline = deadline_of(timeout)
        task = make(self.manifest, *inputs, **options)
        results: BatchResult[EncoderOutput] = BatchResult(len(task.inputs))
        try:
            await self._compute(task, results, deadline)
        except BaseException:
            self._engine.tasks.cancel(results)
            raise
        return task.result(results.outcomes())

    async def _compute(
        self, task: EncodeTask, results: BatchResult[EncoderOutput], deadline: float | None
    ) -> None:
        queue = partial(self._engine.tasks.queue, task, results, deadline)
        try:
            async with asyncio.timeout(seconds_until(deadline)):
                await asyncio.get_running_loop().run_in_executor(self._engine.executor, queue)
                await asyncio.wrap_future(results.complete)
        except TimeoutError:
            results.expire()
            self._engine.tasks.cancel(results)


class AsyncSeq2Seq:
    """The methods of ``Seq2Seq`` as coroutines, with the same options; returned by ``Seq2Seq.aio``."""

    def __init__(self, engine: Seq2Seq) -> None:
        self.manifest = engine.manifest
        self._engine = engine

    async def generate(
        self,
        inputs: Any,
        *,
        parameters: Sequence[Any] | None = None,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Any:
        """Generate a target for each input, as ``Seq2Seq.generate``."""
        deadline = deadline_of(timeout)
        values, single = split(inputs, pairs=False)
        requests = await self._in_thread(
            self._engine.build, values, parameters, options, deadline, return_exceptions
        )
        futures = await self._queue(requests)
        try:
            for future in futures:
                await _ended(future)
        except BaseException:
            self._engine.cancel(futures)
            raise
        return collect([outcome_of(future) for future in futures], single, return_exceptions)

    async def stream(self, value: Any, *, timeout: float | None = None, **options: Any) -> AsyncIterator[str]:
        """Generate one target and iterate over its text while it grows, as ``Seq2Seq.stream``."""
        deadline = deadline_of(timeout)
        request, text, prefix_text = await self._in_thread(
            self._engine.build_stream, value, deadline, options
        )
        if prefix_text:
            yield prefix_text
        async for ids in stream_tokens(request, self._engine.offer):
            if piece := "".join([text.put(int(token)) for token in ids]):
                yield piece
        if rest := text.end():
            yield rest

    async def encode(
        self,
        inputs: Any,
        *,
        truncate: Truncate = True,
        src_lang: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Return the encoder's hidden states of each input, as ``Seq2Seq.encode``."""
        deadline = deadline_of(timeout)
        values, single = split(inputs, pairs=False)
        results: BatchResult[EncoderOutput] = BatchResult(len(values))
        try:
            async with asyncio.timeout(seconds_until(deadline)):
                await self._in_thread(self._engine.queue_encode, values, truncate, src_lang, results)
                await asyncio.wrap_future(results.complete)
        except TimeoutError:
            results.expire()
        except BaseException:
            results.cancel()
            raise
        return collect(results.outcomes(), single, return_exceptions=False)

    async def _queue(
        self, requests: Sequence[Request | InferenceError]
    ) -> list[ResultFuture[GenerateOutput]]:
        """Queue requests in a thread. The thread survives a cancelled task, so it must stop queueing then."""
        cancelled = threading.Event()
        try:
            return await self._in_thread(self._engine.queue, requests, cancelled.is_set)
        except asyncio.CancelledError:
            cancelled.set()
            self._engine.cancel([request.future for request in requests if isinstance(request, Request)])
            raise

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._engine.executor, partial(function, *arguments))


async def _ended(future: ResultFuture[GenerateOutput]) -> None:
    """Wait until a future is done, and enforce its deadline."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    future.add_engine_callback(lambda _: call_soon(loop, done.set))
    try:
        async with asyncio.timeout(seconds_until(future.deadline)):
            await done.wait()
    except TimeoutError:
        future.expire()
