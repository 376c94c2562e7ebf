"""Encode tasks of classifiers and rerankers: ``classify``, ``predict`` and ``rank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from precast.artifacts.manifest import ClassifyInfo, EncodeManifest
from precast.runtime.encoder.tasks import EncodeTask, Outcome, check_truncate
from precast.runtime.errors import InputTypeError, OptionError, TaskError
from precast.runtime.io.inputs import as_list, is_pair, split
from precast.runtime.io.outputs import Activation, EncoderOutput, activate
from precast.runtime.io.tokenization import Truncate


def classify(
    manifest: EncodeManifest,
    inputs: Any,
    *,
    top_k: int | None = 1,
    function_to_apply: str | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> EncodeTask:
    """Return the task of ``Encoder.classify``."""
    info = _classifier(manifest, "classify")
    _check_top_k(top_k)
    activation = _activation(function_to_apply, info.activation)
    items, single = split(inputs, pairs=True)

    def labelled(outcome: Outcome) -> Any:
        if isinstance(outcome, Exception):
            return outcome
        scores = activate(_logits(outcome), activation)
        order = np.argsort(-scores, kind="stable")[:top_k]
        labels = [{"label": info.labels[index], "score": float(scores[index])} for index in order]
        return labels[0] if top_k == 1 else labels

    def finish(outcomes: Sequence[Outcome]) -> Any:
        results = [labelled(outcome) for outcome in outcomes]
        return results[0] if single else results

    return EncodeTask(items, finish, check_truncate(truncate), return_exceptions=return_exceptions)


def predict(
    manifest: EncodeManifest,
    inputs: Any,
    *,
    apply_softmax: bool = False,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> EncodeTask:
    """Return the task of ``Encoder.predict``."""
    info = _classifier(manifest, "predict")
    items, single = ([inputs], True) if is_pair(inputs) else split(inputs, pairs=False)

    def score(outcome: Outcome) -> Any:
        if isinstance(outcome, Exception):
            return outcome
        scores = activate(_logits(outcome), info.score_activation)
        if apply_softmax and len(scores) > 1:
            scores = activate(scores, "softmax")
        return scores[0] if len(scores) == 1 else scores

    def finish(outcomes: Sequence[Outcome]) -> Any:
        results = [score(outcome) for outcome in outcomes]
        if single:
            return results[0]
        if any(isinstance(result, Exception) for result in results):
            return results
        shape = (len(results),) if len(info.labels) == 1 else (len(results), len(info.labels))
        return np.asarray(results, dtype=np.float32).reshape(shape)

    return EncodeTask(
        items, finish, check_truncate(truncate), pairs="required", return_exceptions=return_exceptions
    )


def rank(
    manifest: EncodeManifest,
    query: str,
    documents: Sequence[str],
    *,
    top_k: int | None = None,
    return_documents: bool = False,
    truncate: Truncate = True,
) -> EncodeTask:
    """Return the task of ``Encoder.rank``."""
    info = _classifier(manifest, "rank")
    if len(info.labels) != 1:
        raise TaskError(f"rank needs a model with one label, this one has {len(info.labels)}; use predict")
    if not isinstance(query, str):
        raise InputTypeError(f"expected a text as the query, found {type(query).__name__}")
    _check_top_k(top_k)
    texts = as_list(documents, "a list of texts as documents")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"expected a text as a document, found {type(text).__name__}").at(index)
    scored = predict(manifest, [(query, text) for text in texts], truncate=truncate)

    def finish(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        scores = scored.finish(outcomes)
        order = np.argsort(-scores, kind="stable")[:top_k]
        ranked: list[dict[str, Any]] = [{"corpus_id": int(i), "score": float(scores[i])} for i in order]
        if return_documents:
            for entry in ranked:
                entry["text"] = texts[entry["corpus_id"]]
        return ranked

    return EncodeTask(scored.inputs, finish, scored.truncate)


def _classifier(manifest: EncodeManifest, method: str) -> ClassifyInfo:
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


def _logits(outcome: EncoderOutput) -> np.ndarray:
    assert outcome.logits is not None
    return outcome.logits
