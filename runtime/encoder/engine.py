"""``Encoder``: the engine of an encoder artifact."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec

import numpy as np

from precast.artifacts.manifest import EmbedInfo, Manifest
from precast.runtime.encoder import tasks as calls
from precast.runtime.encoder.batch_result import BatchResult
from precast.runtime.encoder.tasks import Call
from precast.runtime.encoder.worker import Request, Stats, Worker
from precast.runtime.errors import InputError, TaskError
from precast.runtime.io.inputs import Item
from precast.runtime.io.outputs import EncoderOutput, similarity
from precast.runtime.io.tokenization import TextTokenizer
from precast.runtime.io.tokens import Tokens

if TYPE_CHECKING:
    from precast.runtime.aio import AsyncEncoder

_CHUNK = 128
"""Texts tokenized at once: the next chunk is tokenized while the one before is computed."""


Options = ParamSpec("Options")


def _waiting(
    make: Callable[Concatenate[Manifest, Options], Call],
) -> Callable[Concatenate[Encoder, Options], Any]:
    """A method that runs a call and waits for its result; arguments and documentation are the call's."""

    @wraps(make)
    def method(self: Encoder, *args: Options.args, **options: Options.kwargs) -> Any:
        call = make(self.manifest, *args, **options)
        answers = self.start(call)
        answers.complete.result()
        return call.result(answers.found())

    return method


class Encoder:
    """BatchResult for one encoder artifact; made by ``precast.load``. Safe to use from many threads.

    Every method takes one input or a list: a text, token ids, or (where two texts make sense) a pair
    of texts. One input gives one answer, a list gives a list in the same order, an empty list an empty
    result. Arrays handed out are copies. With ``return_exceptions`` an input that cannot be answered
    leaves its error in its place; without it the first such error is raised and names the input.
    """

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, worker: Worker) -> None:
        self.manifest = manifest
        self._tokenizer = tokenizer
        self._worker = worker
        # An engine that is dropped, or alive when the interpreter ends, must stop its thread: one that is
        # inside a graph at that moment would take the process down.
        self._finalizer = weakref.finalize(self, worker.close)

    encode = _waiting(calls.encode)
    embed = _waiting(calls.embed)
    classify = _waiting(calls.classify)
    predict = _waiting(calls.predict)
    rank = _waiting(calls.rank)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Every embedding of ``a`` against every one of ``b``, by the checkpoint's own measure."""
        info = self.manifest.output
        if not isinstance(info, EmbedInfo):
            raise TaskError("similarity needs an artifact compiled with --task embed")
        return similarity(info.similarity, a, b)

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises: TaskError: an encoder has no decoder."""
        raise self._without_decoder("generate")

    def stream(self, *_: Any, **__: Any) -> NoReturn:
        """Raises: TaskError: an encoder has no decoder."""
        raise self._without_decoder("stream")

    def submit(self, value: Any, **options: Any) -> Future[EncoderOutput]:
        """Queue one input and return at once.

        Args:
            value: a text, a pair of texts or token ids.
            **options: those of ``encode``.

        Raises:
            InputError: the input cannot be answered.
            OptionError: an option has a value that it cannot have.
            QueueFullError: too many requests wait; try again later.
        """
        call = calls.encode(self.manifest, (), **options)
        (tokens,) = self._tokenizer.encode([call.read(value)], call.truncate, call.prompt)
        if isinstance(tokens, InputError):
            raise tokens
        future: Future[EncoderOutput] = Future()
        self._worker.offer(Request(tokens, future))
        return future

    def aio(self) -> AsyncEncoder:
        """The same engine for asyncio."""
        from precast.runtime.aio import AsyncEncoder

        return AsyncEncoder(self)

    def stats(self) -> Stats:
        """Requests, batches and tokens answered so far; requests waiting and failed; graphs captured."""
        return self._worker.stats()

    def close(self) -> None:
        """Fail what waits, end the thread, let go of the graph. May be called again."""
        self._finalizer()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _without_decoder(self, method: str) -> TaskError:
        return TaskError(
            f"{method} needs an encoder-decoder compiled with --task generate; this artifact was compiled "
            f"with --task {self.manifest.model.task}"
        )

    def start(self, call: Call) -> BatchResult:
        """Tokenize and queue every input of ``call``; a bad one has failed already."""
        answers = BatchResult(len(call.inputs))
        items: list[tuple[int, Item]] = []
        for place, value in enumerate(call.inputs):
            try:
                items.append((place, call.read(value)))
            except InputError as error:
                answers.set(place, error.at(place))
        for chunk in _chunks(items):
            encoded = self._tokenizer.encode([item for _, item in chunk], call.truncate, call.prompt)
            requests = []
            for (place, _), tokens in zip(chunk, encoded, strict=True):
                if isinstance(tokens, Tokens):
                    requests.append(Request(tokens, answers.promise(place)))
                else:
                    answers.set(place, tokens.at(place))
            self._worker.add(requests)
        return answers


def _chunks(items: list[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
    """Long inputs first, so that a batch holds like lengths and the last batches are short ones."""
    if len(items) > _CHUNK:
        items = sorted(items, key=lambda item: _extent(item[1]), reverse=True)
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def _extent(item: Item) -> int:
    """Roughly how many tokens: a token is about four characters."""
    if isinstance(item, str):
        return len(item) // 4
    return sum(map(len, item)) // 4 if isinstance(item, tuple) else len(item)
