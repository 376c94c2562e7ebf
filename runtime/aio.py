"""The engine for asyncio: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from precast.runtime import calls
from precast.runtime.calls import Answer, Call

if TYPE_CHECKING:
    from precast.runtime.encoder import Encoder


class AsyncEncoder:
    """``Encoder``'s methods as coroutines, made by ``Encoder.aio``; options are the same.

    Requests of all tasks meet in one queue and are packed together. Tokenization runs in a thread and
    the event loop is never blocked.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    async def encode(self, inputs: Any, **options: Any) -> Any:
        return await self._run(calls.encode_call(self._encoder.manifest, inputs, **options))

    async def embed(self, inputs: Any, **options: Any) -> Any:
        return await self._run(calls.embed_call(self._encoder.manifest, inputs, **options))

    async def classify(self, inputs: Any, **options: Any) -> Any:
        return await self._run(calls.classify_call(self._encoder.manifest, inputs, **options))

    async def predict(self, inputs: Any, **options: Any) -> Any:
        return await self._run(calls.predict_call(self._encoder.manifest, inputs, **options))

    async def rank(self, query: str, documents: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        call = calls.rank_call(self._encoder.manifest, query, documents, **options)
        ranked: list[dict[str, Any]] = await self._run(call)
        return ranked

    async def _run(self, call: Call) -> Any:
        futures = await asyncio.to_thread(self._encoder.start, call)
        found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        answers: list[Answer] = []
        for answer in found:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return call.result(answers)
