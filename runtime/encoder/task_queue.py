"""Runs encode tasks: tokenizes their inputs in the caller's thread and queues them in the core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from precast.runtime.batch_result import BatchResult
from precast.runtime.encoder.core import EncoderCore, EncodeRequest
from precast.runtime.encoder.tasks import EncodeTask
from precast.runtime.errors import InputError, RequestTimeoutError
from precast.runtime.futures import ResultFuture
from precast.runtime.io.inputs import Item
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.preprocessor import Preprocessor
from precast.runtime.io.tokens import Tokens

_CHUNK = 128
"""Inputs tokenized in one call of the tokenizer: the next chunk is tokenized while this one is computed."""


class TaskQueue:
    """Tokenizes inputs and queues them in an encoder's core. Safe to use from many threads.

    Args:
        preprocessor: Checks and tokenizes inputs.
        core: Computes the requests.
    """

    def __init__(self, preprocessor: Preprocessor, core: EncoderCore) -> None:
        self._preprocessor = preprocessor
        self._core = core

    def run(self, task: EncodeTask, deadline: float | None) -> Any:
        """Compute a task and return its result; an interrupted wait cancels the inputs still queued.

        Args:
            task: The task.
            deadline: ``time.monotonic`` at which inputs that are not computed yet time out.

        Raises:
            InferenceError: The first error of an input, unless the task returns errors.
        """
        self._core.check_caller()
        results: BatchResult[EncoderOutput] = BatchResult(len(task.inputs))
        try:
            self.queue(task, results, deadline)
            results.wait(deadline)
        except BaseException:
            self.cancel(results)
            raise
        return task.result(results.outcomes())

    def submit(self, value: Any, task: EncodeTask, deadline: float | None) -> ResultFuture[EncoderOutput]:
        """Queue one input with the options of ``task`` and return its future.

        Raises:
            InputError: The input is invalid.
            QueueFullError: ``max_waiting`` requests are queued.
        """
        future: ResultFuture[EncoderOutput] = ResultFuture(deadline)
        item = self._preprocessor.parse(value, task.pairs)
        (tokens,) = self._preprocessor.process([item], task.truncate, task.prompt)
        if isinstance(tokens, InputError):
            raise tokens
        future.served_by = self._core.thread
        self._core.offer(EncodeRequest(tokens, future))
        return future

    def queue(self, task: EncodeTask, results: BatchResult[EncoderOutput], deadline: float | None) -> None:
        """Tokenize and queue the inputs of a task until it is cancelled; invalid inputs fail immediately."""
        items: list[tuple[int, Item]] = []
        for index, value in enumerate(task.inputs):
            try:
                items.append((index, self._preprocessor.parse(value, task.pairs)))
            except InputError as error:
                results.set(index, error.at(index))
        for chunk in self._chunks(items):
            if results.cancelled:
                return
            if deadline is not None and time.monotonic() >= deadline:
                results.expire()
                return
            encoded = self._preprocessor.process([item for _, item in chunk], task.truncate, task.prompt)
            requests = []
            for (index, _), tokens in zip(chunk, encoded, strict=True):
                if isinstance(tokens, Tokens):
                    requests.append(EncodeRequest(tokens, results.promise(index)))
                else:
                    results.set(index, tokens.at(index))
            try:
                self._core.add(requests, deadline, lambda: results.cancelled)
            except RequestTimeoutError:
                results.expire()
                return

    def cancel(self, results: BatchResult[EncoderOutput]) -> None:
        """Cancel the inputs of a call that are still queued, and wake a thread that waits to queue more."""
        results.cancel()
        self._core.wake()

    def _chunks(self, items: list[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
        """Split into chunks, long inputs first: batches hold similar lengths, and the last ones are short."""
        if len(items) > _CHUNK:
            items = sorted(items, key=lambda item: self._preprocessor.size(item[1]), reverse=True)
        for start in range(0, len(items), _CHUNK):
            yield items[start : start + _CHUNK]
