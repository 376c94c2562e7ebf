"""``Seq2Seq``: the engine of an encoder-decoder artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from precast.artifacts.manifest import GenerateManifest, Manifest
from precast.runtime.aio import AsyncSeq2Seq
from precast.runtime.batch_result import BatchResult, collect
from precast.runtime.encoder.packing import cut
from precast.runtime.engine import Engine
from precast.runtime.errors import InferenceError, InputError, OptionError, RequestTimeoutError, TaskError
from precast.runtime.futures import ResultFuture, deadline_of, outcome_of
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.preprocessing import RequestBuilder, check_language, check_truncate
from precast.runtime.generation.request import Request
from precast.runtime.generation.setup import open_core, open_tokenizers
from precast.runtime.generation.streaming import TextPieces
from precast.runtime.io.detokenization import TextStream
from precast.runtime.io.inputs import split
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.preprocessor import TextPreprocessor
from precast.runtime.io.tokenization import Truncate
from precast.runtime.io.tokens import Tokens
from precast.runtime.options import LoadOptions
from precast.runtime.stats import GenerationStats


class Seq2Seq(Engine):
    """Runs one encoder-decoder artifact; returned by ``precast.load`` and ``Seq2Seq.load``.

    One input gives one output, a list gives a list in the same order. Requests of all callers are decoded in
    one batch, which new requests join while it runs (continuous batching). Generation parameters are the
    keyword arguments of Hugging Face's ``generate``, plus ``seed`` for sampling; their defaults come from the
    checkpoint's ``generation_config.json``. ``precast.runtime.generation.sampling_params.SUPPORTED`` lists
    them; others raise OptionError.
    """

    manifest: GenerateManifest
    _core: GenerationCore

    def __init__(self, manifest: GenerateManifest, builder: RequestBuilder, core: GenerationCore) -> None:
        super().__init__(manifest, core)
        self._builder = builder

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, options: LoadOptions) -> Self:
        if not isinstance(manifest, GenerateManifest):
            raise TaskError(
                f"{folder} was compiled with --task {manifest.model.task}; load it with precast.Encoder.load "
                f"or precast.load"
            )
        options.check_for(manifest)
        tokenizer, detokenizer = open_tokenizers(folder, manifest, options)
        builder = RequestBuilder(manifest, TextPreprocessor(tokenizer), tokenizer, detokenizer)
        return cls(manifest, builder, open_core(folder, manifest, options, builder, detokenizer))

    def generate(
        self,
        inputs: Any,
        *,
        parameters: Sequence[Any] | None = None,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Any:
        """Generate a target for each input.

        Args:
            inputs: a text, token ids, or a list of these.
            parameters: options for each input, which take precedence over the common ones: dictionaries, or
                objects such as Hugging Face's GenerationConfig.
            timeout: seconds, counted from the call, after which requests that have not finished fail with
                RequestTimeoutError. By default there is no timeout.
            return_exceptions: return the error of a failed input at its position; by default the first one
                is raised.
            **options: generation parameters in Hugging Face's names; ``generation_config`` for an object that
                holds some; ``decoder_input_ids`` or ``target_prefix`` (token ids, or a text) that the target
                begins with; ``src_lang`` and ``tgt_lang`` if the tokenizer knows languages; ``truncate`` as
                in ``encode``; ``logits_processor`` (a list of functions as in Hugging Face, which run in
                the engine's thread and must not call the engine).

        Returns:
            GenerateOutput, or a list of them.

        Raises:
            InputError: an input is invalid; RequestTooLargeError if an empty engine could not run it.
            OptionError: a parameter is invalid or not supported.
            RequestTimeoutError: the timeout is over.
            ProcessorError, NotFiniteError, GraphError: the error that ended the request.
        """
        deadline = deadline_of(timeout)
        self._core.check_caller()
        values, single = split(inputs, pairs=False)
        # Requests and outcomes have no local names: a raised error refers to this frame, and they to it.
        return collect(
            _wait(self.queue(self.build(values, parameters, options, deadline, return_exceptions))),
            single,
            return_exceptions,
        )

    def stream(self, value: Any, *, timeout: float | None = None, **options: Any) -> TextPieces:
        """Generate one target and iterate over its text while it grows.

        Args:
            value: a text or token ids.
            timeout: seconds, counted from the call, after which the request fails.
            **options: as for ``generate``; beams cannot be streamed.

        Returns:
            An iterator over pieces of text, which never end inside a character; its ``result()`` is the whole
            output. Dropping it before its end, or ``close()``, cancels the request.

        Raises:
            OptionError: beams, several sequences, or no tokenizer; and as ``generate``.
            QueueFullError: too many requests are queued; try again later.
        """
        request, text, prefix_text = self.build_stream(value, deadline_of(timeout), options)
        pieces = TextPieces(request, text, prefix_text)
        self._core.offer(request)
        return pieces

    def submit(
        self, value: Any, *, timeout: float | None = None, **options: Any
    ) -> ResultFuture[GenerateOutput]:
        """Queue one input and return immediately.

        Args:
            value: a text or token ids.
            timeout: seconds, counted from the call, after which the request fails.
            **options: as for ``generate``.

        Returns:
            A future of GenerateOutput, which can be cancelled at any time. Its callbacks run in a thread of
            their own and may call the engine.

        Raises:
            InputError, OptionError: as ``generate``.
            QueueFullError: too many requests are queued; try again later.
        """
        request = self._builder.build(value, options, deadline_of(timeout))
        self._core.offer(request)
        return request.future

    def encode(
        self,
        inputs: Any,
        *,
        truncate: Truncate = True,
        src_lang: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Return the encoder's hidden states of each input.

        Args:
            inputs: a text, token ids, or a list of these.
            truncate: True truncates over-long sources at the tokenizer's default side, ``"left"`` or
                ``"right"`` at that side; False makes them an error.
            src_lang: language of the texts, if the tokenizer knows languages.
            timeout: seconds, counted from the call.

        Returns:
            EncoderOutput, or a list of them.

        Raises:
            InputError: an input is invalid.
            OptionError: an option has an invalid value.
            RequestTimeoutError: the timeout is over.
        """
        deadline = deadline_of(timeout)
        self._core.check_caller()
        values, single = split(inputs, pairs=False)
        results: BatchResult[EncoderOutput] = BatchResult(len(values))
        try:
            self.queue_encode(values, truncate, src_lang, results)
            results.wait(deadline)
        except BaseException:
            results.cancel()
            raise
        return collect(results.outcomes(), single, return_exceptions=False)

    def stats(self) -> GenerationStats:
        """Return counts since the engine was loaded, its current load and the usage of its KV caches."""
        return self._core.stats()

    def _describe(self) -> str:
        stats = self.stats()
        cache = f"a KV cache of {stats.kv_cache_bytes} bytes for {stats.num_seqs} sequences"
        return f"{super()._describe()}, {cache}"

    def aio(self) -> AsyncSeq2Seq:
        """Return the same engine with coroutines as methods, for asyncio."""
        return AsyncSeq2Seq(self)

    # Used by ``AsyncSeq2Seq`` and by the compiler's parity check.

    def build(
        self,
        values: Sequence[Any],
        parameters: Sequence[Any] | None,
        options: Mapping[str, Any],
        deadline: float | None,
        return_exceptions: bool,
    ) -> list[Request | InferenceError]:
        """Return the request of each input, or the error of an invalid one."""
        requests = self._builder.build_all(values, parameters, options, deadline)
        for index, request in enumerate(requests):
            if isinstance(request, OptionError) and not return_exceptions:
                try:
                    raise request.at(index)
                finally:
                    del requests, request  # the error holds this frame: they would form a cycle with it
        return requests

    def build_stream(
        self, value: Any, deadline: float | None, options: Mapping[str, Any]
    ) -> tuple[Request, TextStream, str]:
        """Return a request, its text stream, and the text of its prefix."""
        request = self._builder.build(value, options, deadline)
        return request, *self._builder.text_stream(request)

    def offer(self, request: Request) -> None:
        """Queue a request, or fail immediately."""
        self._core.offer(request)

    def queue(
        self,
        requests: Sequence[Request | InferenceError],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[ResultFuture[GenerateOutput]]:
        """Queue requests; waits while the queue is full. Errors become futures that have failed.

        An interrupted wait cancels the requests that were queued, as does ``cancelled``.
        """
        futures: list[ResultFuture[GenerateOutput]] = []
        try:
            for index, request in enumerate(requests):
                try:
                    if isinstance(request, InferenceError):
                        raise request
                    futures.append(request.future)
                    self._core.add(request, cancelled)
                except (InputError, OptionError, RequestTimeoutError) as error:
                    future = futures.pop() if len(futures) > index else ResultFuture()
                    # A traceback would close a cycle: it refers to this frame, which holds the future.
                    future.fail(error.at(index).with_traceback(None))
                    futures.append(future)
                if cancelled():
                    break
        except BaseException:
            _cancel(futures)
            raise
        if cancelled():
            _cancel(futures)
        return futures

    def queue_encode(
        self,
        values: Sequence[Any],
        truncate: Truncate,
        src_lang: str | None,
        results: BatchResult[EncoderOutput],
    ) -> None:
        """Tokenize and queue sources that are only encoded. Raises as ``encode``."""
        check_truncate(truncate)
        check_language("src_lang", src_lang)
        items = []
        for index, value in enumerate(values):
            try:
                items.append(self._builder.parse(value))
            except InputError as error:
                raise error.at(index) from None
        sources: list[Tokens] = []
        for index, tokens in enumerate(self._builder.tokenize(items, truncate, src_lang)):
            if isinstance(tokens, InputError):
                raise tokens.at(index)
            sources.append(tokens)
        limits = self.manifest.limits
        for batch in cut([len(source) for source in sources], limits.max_tokens, limits.max_batch):
            self._core.encode([sources[index] for index in batch], results, batch)

    def cancel(self, futures: Sequence[ResultFuture[GenerateOutput]]) -> None:
        """Cancel requests, and wake a thread that waits to queue more of them."""
        _cancel(futures)
        self._core.wake()


def _wait(futures: Sequence[ResultFuture[GenerateOutput]]) -> list[Any]:
    """Return the outcomes of all futures; an interrupted wait cancels them."""
    try:
        return [outcome_of(future) for future in futures]
    except BaseException:
        _cancel(futures)
        raise


def _cancel(futures: Sequence[ResultFuture[GenerateOutput]]) -> None:
    for future in futures:
        future.cancel()
