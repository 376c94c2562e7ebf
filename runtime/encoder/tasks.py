"""The tasks as calls: which inputs go to the graph, and what its answers become.

These functions are the methods of ``Encoder`` and ``AsyncEncoder``, which only differ in how they wait.
Common to all: ``truncate`` cuts over-long inputs at the tokenizer's own side (True), at ``"left"`` or
``"right"``, or makes them an error (False); ``return_exceptions`` leaves the error of an input that cannot
be answered in its place, where otherwise the first one is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.artifacts.manifest import ClassifyInfo, EmbedInfo, Manifest
from precast.runtime.encoder.batch_result import Answer
from precast.runtime.errors import InputTypeError, OptionError, TaskError
from precast.runtime.io.inputs import Item, as_list, is_pair, parse, parse_pair, parse_without_pairs, split
from precast.runtime.io.outputs import (
    Activation,
    EncoderOutput,
    activate,
    truncate_and_normalize,
)
from precast.runtime.io.tokenization import Truncate


@dataclass(frozen=True)
class Call:
    """Inputs, how to read them, and what to make of their answers (in the same order)."""

    inputs: list[Any]
    finish: Callable[[Sequence[Answer]], Any]
    truncate: Truncate = True
    prompt: str = ""
    read: Callable[[Any], Item] = parse
    return_exceptions: bool = False

    def result(self, answers: Sequence[Answer]) -> Any:
        """What the caller gets: the first error, unless errors were asked for as results."""
        if not self.return_exceptions:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return self.finish(answers)


def encode(
    manifest: Manifest,
    inputs: Any,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> Call:
    """The task's own answer for each input.

    Args:
        manifest: of the artifact.
        inputs: a text, a pair of texts, token ids, or a list of these.
        prompt_name: of a prompt that the checkpoint has; put before every text.
        prompt: a text to put before every text.
        truncate: see above.
        return_exceptions: see above.

    Returns:
        EncoderOutput, or a list of them.
    """
    items, single = split(inputs, pairs=True)
    return Call(
        items,
        finish=lambda answers: answers[0] if single else list(answers),
        truncate=_truncate(truncate),
        prompt=_prompt(manifest, prompt_name, prompt),
        return_exceptions=return_exceptions,
    )


def embed(
    manifest: Manifest,
    inputs: Any,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> Call:
    """Sentence embeddings.

    Args:
        manifest: of the artifact.
        inputs: a text, token ids, or a list of these.
        prompt_name: of a prompt that the checkpoint has; put before every text.
        prompt: a text to put before every text.
        normalize_embeddings: scale to unit length, after truncation.
        truncate_dim: keep so many dimensions.
        truncate: see above.
        return_exceptions: see above.

    Returns:
        fp32 ``[n, size]``; ``[size]`` for one input; a list where an error stands in it.

    Raises:
        TaskError: the artifact was compiled for another task.
        InputError: an input cannot be answered.
        OptionError: an option has a value that it cannot have.
    """
    info = manifest.output
    if not isinstance(info, EmbedInfo):
        raise TaskError(
            f"embed needs an artifact compiled with --task embed, this one is {manifest.model.task}"
        )
    items, single = split(inputs, pairs=False)
    # A bad truncate_dim is refused before anything is computed.
    truncate_and_normalize(np.empty((0, info.size), dtype=np.float32), truncate_dim, False)

    def finish(answers: Sequence[Answer]) -> Any:
        rows = _embeddings(answers, info.size, truncate_dim, normalize_embeddings)
        return rows[0] if single else rows

    return Call(
        items,
        finish,
        truncate=_truncate(truncate),
        prompt=_prompt(manifest, prompt_name, prompt),
        read=parse_without_pairs,
        return_exceptions=return_exceptions,
    )


def classify(
    manifest: Manifest,
    inputs: Any,
    *,
    top_k: int | None = 1,
    function_to_apply: str | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> Call:
    """Labels and scores, as HF's text-classification pipeline gives them.

    Args:
        manifest: of the artifact.
        inputs: a text, a pair of texts, token ids, or a list of these.
        top_k: best labels of each input; None for all.
        function_to_apply: ``"softmax"``, ``"sigmoid"`` or ``"none"``; the model's own where left out.
        truncate: see above.
        return_exceptions: see above.

    Returns:
        For each input ``{"label", "score"}``, or a list of these unless ``top_k`` is 1.

    Raises:
        TaskError, InputError, OptionError: as ``embed``.
    """
    info = _classifier(manifest, "classify")
    _check_top_k(top_k)
    activation = _activation(function_to_apply, info.activation)
    items, single = split(inputs, pairs=True)

    def labelled(answer: Answer) -> Any:
        if isinstance(answer, Exception):
            return answer
        scores = activate(_logits(answer), activation)
        order = np.argsort(-scores, kind="stable")[:top_k]
        found = [{"label": info.labels[place], "score": float(scores[place])} for place in order]
        return found[0] if top_k == 1 else found

    def finish(answers: Sequence[Answer]) -> Any:
        results = [labelled(answer) for answer in answers]
        return results[0] if single else results

    return Call(items, finish, _truncate(truncate), return_exceptions=return_exceptions)


def predict(
    manifest: Manifest,
    inputs: Any,
    *,
    apply_softmax: bool = False,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> Call:
    """Scores of pairs of texts, as sentence-transformers' ``CrossEncoder.predict``.

    Args:
        manifest: of the artifact.
        inputs: a pair of texts, or a list of them.
        apply_softmax: over several labels, after the checkpoint's own activation.
        truncate: see above.
        return_exceptions: see above.

    Returns:
        fp32 ``[n]``, or ``[n, labels]`` for several labels; one row less for one pair.

    Raises:
        TaskError, InputError, OptionError: as ``embed``.
    """
    info = _classifier(manifest, "predict")
    items, single = ([inputs], True) if is_pair(inputs) else split(inputs, pairs=False)

    def score(answer: Answer) -> Any:
        if isinstance(answer, Exception):
            return answer
        scores = activate(_logits(answer), info.score_activation)
        if apply_softmax and len(scores) > 1:
            scores = activate(scores, "softmax")
        return scores[0] if len(scores) == 1 else scores

    def finish(answers: Sequence[Answer]) -> Any:
        results = [score(answer) for answer in answers]
        if single:
            return results[0]
        if any(isinstance(result, Exception) for result in results):
            return results
        shape = (len(results),) if len(info.labels) == 1 else (len(results), len(info.labels))
        return np.asarray(results, dtype=np.float32).reshape(shape)

    return Call(items, finish, _truncate(truncate), read=parse_pair, return_exceptions=return_exceptions)


def rank(
    manifest: Manifest,
    query: str,
    documents: Sequence[str],
    *,
    top_k: int | None = None,
    return_documents: bool = False,
    truncate: Truncate = True,
) -> Call:
    """Documents by their score for ``query``, best first, as ``CrossEncoder.rank``.

    Args:
        manifest: of the artifact.
        query: a text.
        documents: texts.
        top_k: how many; None for all.
        return_documents: whether each result carries its text.
        truncate: see above.

    Returns:
        ``{"corpus_id", "score"}`` each, and ``"text"`` where documents are asked for.

    Raises:
        TaskError, InputError, OptionError: as ``embed``.
    """
    info = _classifier(manifest, "rank")
    if len(info.labels) != 1:
        raise TaskError(f"rank needs a model with one label, this one has {len(info.labels)}; use predict")
    if not isinstance(query, str):
        raise InputTypeError(f"expected a text as the query, found {type(query).__name__}")
    _check_top_k(top_k)
    texts = as_list(documents, "a list of texts as documents")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"expected a text as a document, found {type(text).__name__}").at(place)
    scored = predict(manifest, [(query, text) for text in texts], truncate=truncate)

    def finish(answers: Sequence[Answer]) -> list[dict[str, Any]]:
        scores = scored.finish(answers)
        order = np.argsort(-scores, kind="stable")[:top_k]
        ranked: list[dict[str, Any]] = [{"corpus_id": int(i), "score": float(scores[i])} for i in order]
        if return_documents:
            for entry in ranked:
                entry["text"] = texts[entry["corpus_id"]]
        return ranked

    return Call(scored.inputs, finish, scored.truncate)


def _classifier(manifest: Manifest, method: str) -> ClassifyInfo:
    info, task = manifest.output, manifest.model.task
    if not isinstance(info, ClassifyInfo) or task == "token-classify":
        raise TaskError(
            f"{method} needs an artifact compiled with --task classify or rerank, this one is {task}"
            + ("; encode gives the logits of each token" if task == "token-classify" else "")
        )
    return info


def _activation(function_to_apply: str | None, default: Activation) -> Activation:
    names: dict[str, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "identity"}
    if function_to_apply is None:
        return default
    if not isinstance(function_to_apply, str) or function_to_apply not in names:
        raise OptionError(f"function_to_apply must be one of {sorted(names)}, found {function_to_apply!r}")
    return names[function_to_apply]


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise OptionError(f"top_k must be a positive number or None, found {top_k!r}")


def _truncate(truncate: Truncate) -> Truncate:
    if isinstance(truncate, bool) or (isinstance(truncate, str) and truncate in ("left", "right")):
        return truncate
    raise OptionError(f"truncate must be True, False, 'left' or 'right', found {truncate!r}")


def _prompt(manifest: Manifest, prompt_name: str | None, prompt: str | None) -> str:
    """sentence-transformers' rule: a prompt given, else one named, else the default one."""
    info = manifest.output
    prompts = info.prompts if isinstance(info, EmbedInfo) else {}
    if prompt is not None:
        if not isinstance(prompt, str):
            raise OptionError(f"prompt must be a text, found {type(prompt).__name__}")
        return prompt
    if prompt_name is None:
        default = info.default_prompt_name if isinstance(info, EmbedInfo) else None
        return prompts.get(default, "") if default else ""
    if not isinstance(prompt_name, str) or prompt_name not in prompts:
        raise OptionError(f"prompt_name {prompt_name!r} is not known; the artifact has {sorted(prompts)}")
    return prompts[prompt_name]


def _embeddings(
    answers: Sequence[Answer], size: int, truncate_dim: int | None, normalize: bool
) -> np.ndarray | list[Any]:
    """All answers in one array; with an error among them, a list of rows."""
    if any(isinstance(answer, Exception) for answer in answers):
        return [
            answer
            if isinstance(answer, Exception)
            else truncate_and_normalize(_embedding(answer), truncate_dim, normalize)
            for answer in answers
        ]
    stacked = np.empty((len(answers), size), dtype=np.float32)
    for row, answer in zip(stacked, answers, strict=True):
        row[:] = _embedding(answer)
    return truncate_and_normalize(stacked, truncate_dim, normalize)


def _embedding(answer: Answer) -> np.ndarray:
    assert isinstance(answer, EncoderOutput) and answer.embedding is not None
    return answer.embedding


def _logits(answer: EncoderOutput) -> np.ndarray:
    assert answer.logits is not None
    return answer.logits
