"""``Encoder``: the engine of an encoder artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from precast.artifacts.manifest import EmbedInfo, EncodeManifest, Manifest
from precast.runtime.aio import AsyncEncoder
from precast.runtime.encoder import classification, tasks
from precast.runtime.encoder.core import EncoderCore
from precast.runtime.encoder.setup import open_core, open_tokenizer
from precast.runtime.encoder.task_queue import TaskQueue
from precast.runtime.encoder.tasks import EncodeTask
from precast.runtime.engine import Engine
from precast.runtime.errors import TaskError
from precast.runtime.futures import ResultFuture, deadline_of
from precast.runtime.io.outputs import EncoderOutput, similarity
from precast.runtime.io.preprocessor import Preprocessor, TextPreprocessor
from precast.runtime.io.tokenization import Truncate
from precast.runtime.options import LoadOptions
from precast.runtime.stats import EncoderStats


class Encoder(Engine):
    """Runs one encoder artifact; returned by ``precast.load`` and ``Encoder.load``. Safe to use from many
    threads.

    Every method takes one input or a list of inputs. An input is a text, token ids or, for tasks that compare
    texts, a pair of texts. One input gives one result, a list gives a list in the same order, and an empty
    list an empty result. Returned arrays are copies.

    Common options:
        truncate: True truncates over-long inputs at the tokenizer's default side, ``"left"`` or ``"right"``
            at that side; False makes them an error.
        timeout: seconds, counted from the call, after which inputs that are not computed yet fail with
            RequestTimeoutError. By default there is no timeout.
        return_exceptions: return the error of a failed input at its position; by default the first error is
            raised, and its ``index`` names the input.
    """

    manifest: EncodeManifest
    _core: EncoderCore

    def __init__(self, manifest: EncodeManifest, preprocessor: Preprocessor, core: EncoderCore) -> None:
        super().__init__(manifest, core)
        self.tasks = TaskQueue(preprocessor, core)

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, options: LoadOptions) -> Self:
        if not isinstance(manifest, EncodeManifest):
            raise TaskError(
                f"{folder} was compiled with --task {manifest.model.task}; load it with precast.Seq2Seq.load "
                f"or precast.load"
            )
        options.check_for(manifest)
        preprocessor = TextPreprocessor(open_tokenizer(folder, manifest, options))
        return cls(manifest, preprocessor, open_core(folder, manifest, options))

    def encode(
        self,
        inputs: Any,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: Truncate = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """Return the output of the artifact's task for each input.

        Args:
            inputs: a text, a pair of texts, token ids, or a list of these.
            prompt_name: name of a prompt of the checkpoint, which is put before every text.
            prompt: the text of a prompt, which is put before every text.
            truncate: whether and where over-long inputs are truncated; see the class.
            timeout: seconds after which the call times out; by default never.
            return_exceptions: return the errors of failed inputs at their positions; see the class.

        Returns:
            EncoderOutput, or a list of them.

        Raises:
            InputError: an input is invalid.
            OptionError: an option has an invalid value.
            RequestTimeoutError: the timeout has passed.
        """
        task = tasks.encode(
            self.manifest,
            inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate=truncate,
            return_exceptions=return_exceptions,
        )
        return self._run(task, timeout)

    def embed(
        self,
        inputs: Any,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        truncate: Truncate = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """Return sentence embeddings. Keywords are those of sentence-transformers' ``encode``.

        Args:
            inputs: a text, token ids, or a list of these.
            prompt_name: name of a prompt of the checkpoint, which is put before every text.
            prompt: the text of a prompt, which is put before every text.
            batch_size: accepted for compatibility, without effect: inputs are packed by tokens.
            show_progress_bar: accepted for compatibility, without effect.
            convert_to_numpy: return arrays; False returns a list of tensors.
            convert_to_tensor: return one tensor; takes precedence over ``convert_to_numpy``.
            normalize_embeddings: scale embeddings to unit length, after ``truncate_dim``.
            truncate_dim: number of leading dimensions to keep; by default all.
            truncate: whether and where over-long inputs are truncated; see the class.
            timeout: seconds after which the call times out; by default never.
            return_exceptions: return the errors of failed inputs at their positions; see the class.

        Returns:
            fp32 ``[n, size]``; ``[size]`` for one input; a list of arrays and errors if an input failed.

        Raises:
            TaskError: the artifact was compiled for another task.
            InputError: an input is invalid.
            OptionError: an option has an invalid value.
            RequestTimeoutError: the timeout has passed.
        """
        task = tasks.embed(
            self.manifest,
            inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            truncate=truncate,
            return_exceptions=return_exceptions,
        )
        return self._run(task, timeout)

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """Return embeddings of queries, as ``encode_query`` of sentence-transformers.

        Args:
            inputs: a text, token ids, or a list of these.
            **options: options of ``embed``; the default prompt is the checkpoint's ``query``.
        """
        return self.embed(inputs, **tasks.with_prompt_of(self.manifest, options, tasks.QUERY_PROMPTS))

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """Return embeddings of documents, as ``encode_document`` of sentence-transformers.

        Args:
            inputs: a text, token ids, or a list of these.
            **options: options of ``embed``; the default prompt is the checkpoint's ``document``, ``passage``
                or ``corpus``.
        """
        return self.embed(inputs, **tasks.with_prompt_of(self.manifest, options, tasks.DOCUMENT_PROMPTS))

    def classify(
        self,
        inputs: Any,
        *,
        top_k: int | None = 1,
        function_to_apply: str | None = None,
        truncate: Truncate = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """Return labels and scores, as Hugging Face's text-classification pipeline does.

        Args:
            inputs: a text, a pair of texts, token ids, or a list of these.
            top_k: number of labels for each input, best first; None for all.
            function_to_apply: ``"softmax"``, ``"sigmoid"`` or ``"none"``; by default the model's own.
            truncate: whether and where over-long inputs are truncated; see the class.
            timeout: seconds after which the call times out; by default never.
            return_exceptions: return the errors of failed inputs at their positions; see the class.

        Returns:
            For each input ``{"label", "score"}``, or a list of these unless ``top_k`` is 1.

        Raises:
            TaskError, InputError, OptionError, RequestTimeoutError: as ``embed``.
        """
        task = classification.classify(
            self.manifest,
            inputs,
            top_k=top_k,
            function_to_apply=function_to_apply,
            truncate=truncate,
            return_exceptions=return_exceptions,
        )
        return self._run(task, timeout)

    def predict(
        self,
        inputs: Any,
        *,
        apply_softmax: bool = False,
        truncate: Truncate = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """Return scores of pairs of texts, as sentence-transformers' ``CrossEncoder.predict``.

        Args:
            inputs: a pair of texts, or a list of them.
            apply_softmax: whether to apply a softmax over the labels, after the checkpoint's activation.
            truncate: whether and where over-long inputs are truncated; see the class.
            timeout: seconds after which the call times out; by default never.
            return_exceptions: return the errors of failed inputs at their positions; see the class.

        Returns:
            fp32 ``[n]``, or ``[n, labels]`` for several labels; without the first axis for one pair.

        Raises:
            TaskError, InputError, OptionError, RequestTimeoutError: as ``embed``.
        """
        task = classification.predict(
            self.manifest,
            inputs,
            apply_softmax=apply_softmax,
            truncate=truncate,
            return_exceptions=return_exceptions,
        )
        return self._run(task, timeout)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        truncate: Truncate = True,
        timeout: float | None = None,
    ) -> Any:
        """Return documents ranked by their score for ``query``, as ``CrossEncoder.rank``.

        Args:
            query: a text.
            documents: texts.
            top_k: number of documents; None for all.
            return_documents: whether each result contains the document's text.
            truncate: whether and where over-long inputs are truncated; see the class.
            timeout: seconds after which the call times out; by default never.

        Returns:
            A list of ``{"corpus_id", "score"}``, best first; with ``"text"`` if ``return_documents`` is set.

        Raises:
            TaskError, InputError, OptionError, RequestTimeoutError: as ``embed``.
        """
        task = classification.rank(
            self.manifest,
            query,
            documents,
            top_k=top_k,
            return_documents=return_documents,
            truncate=truncate,
        )
        return self._run(task, timeout)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the similarity of every embedding of ``a`` to every one of ``b``.

        Args:
            a: fp32 ``[n, size]``, or ``[size]``.
            b: fp32 ``[m, size]``, or ``[size]``.

        Returns:
            fp32 ``[n, m]``.

        Raises:
            TaskError: the artifact was compiled for another task.
        """
        info = self.manifest.output
        if not isinstance(info, EmbedInfo):
            raise TaskError("similarity needs an artifact compiled with --task embed")
        return similarity(info.similarity, a, b)

    def submit(
        self,
        value: Any,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: Truncate = True,
        timeout: float | None = None,
    ) -> ResultFuture[EncoderOutput]:
        """Queue one input and return immediately.

        Args:
            value: a text, a pair of texts or token ids.
            prompt_name: name of a prompt of the checkpoint, which is put before the text.
            prompt: the text of a prompt, which is put before the text.
            truncate: whether and where an over-long input is truncated; see the class.
            timeout: seconds after which the call times out; by default never.

        Returns:
            A future of EncoderOutput. Its callbacks run in a thread of their own and may call the engine.

        Raises:
            InputError: the input is invalid.
            OptionError: an option has an invalid value.
            QueueFullError: too many requests are queued; try again later.
        """
        task = tasks.encode(self.manifest, (), prompt_name=prompt_name, prompt=prompt, truncate=truncate)
        return self.tasks.submit(value, task, deadline_of(timeout))

    def stats(self) -> EncoderStats:
        """Return counts since the engine was loaded, and the length of the queue."""
        return self._core.stats()

    def aio(self) -> AsyncEncoder:
        """Return the same engine with coroutines as methods, for asyncio."""
        return AsyncEncoder(self)

    def _run(self, task: EncodeTask, timeout: float | None) -> Any:
        return self.tasks.run(task, deadline_of(timeout))
