"""The engine for asyncio: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from precast.artifacts.manifest import Manifest
from precast.runtime import calls
from precast.runtime.calls import Answer, Call

if TYPE_CHECKING:
    from precast.runtime.encoder import Encoder


Options = ParamSpec("Options")


def _awaiting(
    make: Callable[Concatenate[Manifest, Options], Call],
) -> Callable[Concatenate[AsyncEncoder, Options], Coroutine[Any, Any, Any]]:
    """A method that runs a call and awaits its result; arguments and documentation are the call's."""

    @wraps(make)
    async def method(self: AsyncEncoder, *args: Options.args, **options: Options.kwargs) -> Any:
        call = make(self.manifest, *args, **options)
        futures = await asyncio.to_thread(self.start, call)
        found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        answers: list[Answer] = []
        for answer in found:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return call.result(answers)

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
