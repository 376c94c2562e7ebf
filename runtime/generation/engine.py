"""``Seq2Seq``: the engine of an encoder-decoder artifact."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from precast.artifacts.manifest import GenerateInfo, Manifest
from precast.runtime.encoder.packing import cut
from precast.runtime.errors import InputError, TaskError
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.preprocessing import Preparation, check_language, check_truncate
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.stats import GenerationStats
from precast.runtime.generation.streaming import TextPieces
from precast.runtime.generation.validation import as_number, wrong
from precast.runtime.generation.worker import GenerationWorker
from precast.runtime.io.inputs import parse_without_pairs, split
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokenization import Truncate
from precast.runtime.io.tokens import Tokens

if TYPE_CHECKING:
    from precast.runtime.aio import AsyncSeq2Seq


class Seq2Seq:
    """Generates for one encoder-decoder artifact; made by ``precast.load``. Safe to use from many threads.

    One input gives one answer, a list gives a list in the same order. Requests of all callers decode
    together, and new ones join while others run. Keyword arguments that say how to generate are those of
    Hugging Face's ``generate``, with the checkpoint's own ``generation_config.json`` as defaults, and
    ``seed`` for sampling; ``precast.runtime.generation.sampling_params.SUPPORTED`` lists them. One that is not
    supported is refused by name.
    """

    def __init__(self, manifest: Manifest, preparation: Preparation, worker: GenerationWorker) -> None:
        assert isinstance(manifest.output, GenerateInfo)
        self.manifest = manifest
        self._preparation = preparation
        self._worker = worker
        # As Encoder's: an engine that is dropped must stop its thread.
        self._finalizer = weakref.finalize(self, worker.close)

    def generate(
        self,
        inputs: Any,
        *,
        parameters: Sequence[Mapping[str, Any]] | None = None,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Any:
        """Generate a target for each input.

        Args:
            inputs: a text, token ids, or a list that mixes both.
            parameters: for each input, options of its own that go before the common ones.
            timeout: seconds after which a request is given up.
            return_exceptions: leave the error of an input that cannot be answered in its place, where
                otherwise the first one is raised.
            **options: how to generate, in Hugging Face's names; and ``decoder_input_ids`` or
                ``target_prefix`` (token ids, or a text) that the target shall begin with, ``src_lang`` and
                ``tgt_lang`` where the tokenizer knows languages, ``truncate`` as for an ``Encoder``,
                ``logits_processor`` (a list of functions as Hugging Face takes them, which every step waits
                for).

        Returns:
            ``GenerateOutput``, one or a list.

        Raises:
            InputError: an input cannot be answered; RequestTooLargeError where no empty engine could.
            OptionError: a parameter has a value that it cannot have, or is not supported.
            RequestTimeoutError: the timeout was over.
            ProcessorError, NotFiniteError, GraphError: what the request ended by.
        """
        values, single = split(inputs, pairs=False)
        # No name for the answers: an error that is raised holds this frame, and they hold the error.
        return collect(
            [_outcome(future) for future in self.start(values, parameters, timeout, options)],
            single,
            return_exceptions,
        )

    def stream(self, value: Any, *, timeout: float | None = None, **options: Any) -> TextPieces:
        """Generate one target and iterate over its text as it grows.

        Args:
            value: a text or token ids.
            timeout: seconds after which the request is given up.
            **options: as for ``generate``; beams cannot be streamed.

        Returns:
            An iterator over pieces of text, never half a character; its ``result()`` is the whole answer.
            Dropping it before its end, or ``close()``, cancels the request.

        Raises:
            OptionError: beams, several sequences, or no tokenizer; and as ``generate``.
        """
        seconds = _seconds(timeout)
        request = self._preparation.one(value, options)
        pieces = TextPieces(request, *self._preparation.text_stream(request))
        self._worker.offer(request, seconds)
        return pieces

    def submit(self, value: Any, *, timeout: float | None = None, **options: Any) -> Future[GenerateOutput]:
        """Queue one input and return at once; ``cancel`` of the future works at any moment.

        Raises:
            InputError, OptionError: as ``generate``.
            QueueFullError: too many requests wait; try again later.
        """
        seconds = _seconds(timeout)
        request = self._preparation.one(value, options)
        self._worker.offer(request, seconds)
        return request.future

    def encode(self, inputs: Any, *, truncate: Truncate = True, src_lang: str | None = None) -> Any:
        """The encoder's hidden states of each input: ``EncoderOutput``, one or a list.

        Raises:
            InputError: an input cannot be answered.
            OptionError: an option has a value that it cannot have.
        """
        values, single = split(inputs, pairs=False)
        check_truncate(truncate)
        check_language("src_lang", src_lang)
        items = []
        for place, value in enumerate(values):
            try:
                items.append(parse_without_pairs(value))
            except InputError as error:
                raise error.at(place) from None
        tokens: list[Tokens] = []
        for place, found in enumerate(self._preparation.tokenize(items, truncate, src_lang)):
            if isinstance(found, InputError):
                raise found.at(place)
            tokens.append(found)
        outputs: dict[int, Future[EncoderOutput]] = {}
        limits = self.manifest.limits
        for places in cut([len(one) for one in tokens], limits.max_tokens, limits.max_batch):
            outputs |= zip(places, self._worker.encode([tokens[place] for place in places]), strict=True)
        answers = [outputs[place].result() for place in range(len(tokens))]
        return answers[0] if single else answers

    def aio(self) -> AsyncSeq2Seq:
        """The same engine for asyncio."""
        from precast.runtime.aio import AsyncSeq2Seq

        return AsyncSeq2Seq(self)

    def stats(self) -> GenerationStats:
        """What was done so far, what runs and waits, how full the kv_cache are."""
        return self._worker.stats()

    def close(self) -> None:
        """Fail what runs and what waits, end the thread, let go of the graphs. May be called again."""
        self._finalizer()

    def __enter__(self) -> Seq2Seq:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("embed", "classify", "predict", "rank", "similarity"):
            raise TaskError(f"{name} needs an encoder artifact, this one was compiled with --task generate")
        raise AttributeError(f"Seq2Seq has no attribute {name!r}")

    def start(
        self,
        values: Sequence[Any],
        parameters: Sequence[Mapping[str, Any]] | None,
        timeout: float | None,
        options: Mapping[str, Any],
    ) -> list[Future[GenerateOutput]]:
        """Queue every input; one that cannot be answered has failed already."""
        seconds = _seconds(timeout)
        return self.queue(self._preparation.many(values, parameters, options), seconds)

    def queue(
        self, requests: Sequence[GenerateRequest | InputError], timeout: float | None = None
    ) -> list[Future[GenerateOutput]]:
        """Queue prepared requests; waits while the queue is full. One that is an error has failed already."""
        futures: list[Future[GenerateOutput]] = []
        for place, found in enumerate(requests):
            try:
                if isinstance(found, InputError):
                    raise found
                self._worker.add(found, timeout)
                futures.append(found.future)
            except InputError as error:
                futures.append(Future())
                # Without a traceback: this frame holds the futures, and one of them the error.
                futures[-1].set_exception(error.at(place).with_traceback(None))
        return futures


def collect(answers: Sequence[Any], single: bool, return_exceptions: bool) -> Any:
    """What the caller gets: the first error, unless errors were asked for as results."""
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if failed and not return_exceptions:
        try:
            raise failed[0]
        finally:
            del answers, failed  # the error holds this frame: they would be in a circle with it
    return answers[0] if single else list(answers)


def _outcome(future: Future[GenerateOutput]) -> GenerateOutput | BaseException:
    error = future.exception()
    return future.result() if error is None else error


def _seconds(timeout: Any) -> float | None:
    """A timeout, checked."""
    if timeout is None:
        return None
    seconds = as_number("timeout", timeout)
    if seconds < 0:
        raise wrong("timeout", "a number of seconds from 0 up", timeout)
    return seconds
