"""What the methods of ``Encoder`` make of their arguments: inputs for the graph, and results of its outputs.

``Encoder`` and ``AsyncEncoder`` differ in how they wait only, so that both are made of these functions. Their
arguments are documented at ``Encoder``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from precast.artifacts.manifest import ClassifyInfo, EmbedInfo, EncodeManifest
from precast.runtime.errors import InputTypeError, OptionError, TaskError
from precast.runtime.io.inputs import as_list, is_pair, split
from precast.runtime.io.outputs import (
    Activation,
    EncoderOutput,
    activate,
    truncate_and_normalize,
)
from precast.runtime.io.preprocessor import Pairs
from precast.runtime.io.tokenization import Truncate

Outcome = EncoderOutput | Exception
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""In the order in which sentence-transformers looks for them."""


@dataclass(frozen=True)
class EncodeTask:
    """The inputs of a call, how to parse them, and what to make of their outcomes (in the same order)."""

    inputs: list[Any]
    finish: Callable[[Sequence[Outcome]], Any]
    truncate: Truncate = True
    prompt: str = ""
    pairs: Pairs = "allowed"
    return_exceptions: bool = False

    def result(self, outcomes: Sequence[Outcome]) -> Any:
        """The result of the call. The first error is raised, unless errors were asked for as results."""
        if not self.return_exceptions:
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        return self.finish(outcomes)


def encode(
    manifest: EncodeManifest,
    inputs: Any,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> EncodeTask:
    items, single = split(inputs, pairs=True)
    return EncodeTask(
        items,
        finish=lambda outcomes: outcomes[0] if single else list(outcomes),
        truncate=_truncate(truncate),
        prompt=_prompt(manifest, prompt_name, prompt),
        return_exceptions=return_exceptions,
    )


def embed(
    manifest: EncodeManifest,
    inputs: Any,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    convert_to_numpy: bool = True,
    convert_to_tensor: bool = False,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> EncodeTask:
    info = manifest.output
    if not isinstance(info, EmbedInfo):
        raise TaskError(
            f"embed needs an artifact compiled with --task embed, this one is {manifest.model.task}"
        )
    items, single = split(inputs, pairs=False)
    # A bad truncate_dim is refused before anything is computed.
    truncate_and_normalize(np.empty((0, info.size), dtype=np.float32), truncate_dim, False)

    def finish(outcomes: Sequence[Outcome]) -> Any:
        embeddings = _embeddings(outcomes, info.size, truncate_dim, normalize_embeddings)
        converted = _converted(embeddings, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
        return converted[0] if single else converted

    return EncodeTask(
        items,
        finish,
        truncate=_truncate(truncate),
        prompt=_prompt(manifest, prompt_name, prompt),
        pairs="refused",
        return_exceptions=return_exceptions,
    )


def with_prompt_of(manifest: EncodeManifest, options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Options of ``embed``, with the first of these prompts that the checkpoint has if none is given."""
    prompts = manifest.output.prompts if isinstance(manifest.output, EmbedInfo) else {}
    if options.get("prompt") is not None or options.get("prompt_name") is not None:
        return options
    return {**options, "prompt_name": next((name for name in names if name in prompts), None)}


def classify(
    manifest: EncodeManifest,
    inputs: Any,
    *,
    top_k: int | None = 1,
    function_to_apply: str | None = None,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> EncodeTask:
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

    return EncodeTask(items, finish, _truncate(truncate), return_exceptions=return_exceptions)


def predict(
    manifest: EncodeManifest,
    inputs: Any,
    *,
    apply_softmax: bool = False,
    truncate: Truncate = True,
    return_exceptions: bool = False,
) -> EncodeTask:
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
        items, finish, _truncate(truncate), pairs="required", return_exceptions=return_exceptions
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


def _truncate(truncate: Truncate) -> Truncate:
    if isinstance(truncate, bool) or (isinstance(truncate, str) and truncate in ("left", "right")):
        return truncate
    raise OptionError(f"truncate must be True, False, 'left' or 'right', found {truncate!r}")


def _prompt(manifest: EncodeManifest, prompt_name: str | None, prompt: str | None) -> str:
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
    outcomes: Sequence[Outcome], size: int, truncate_dim: int | None, normalize: bool
) -> np.ndarray | list[Any]:
    """All outcomes in one array; with an error among them, a list of rows."""
    if any(isinstance(outcome, Exception) for outcome in outcomes):
        return [
            outcome
            if isinstance(outcome, Exception)
            else truncate_and_normalize(_embedding(outcome), truncate_dim, normalize)
            for outcome in outcomes
        ]
    stacked = np.empty((len(outcomes), size), dtype=np.float32)
    for row, outcome in zip(stacked, outcomes, strict=True):
        row[:] = _embedding(outcome)
    return truncate_and_normalize(stacked, truncate_dim, normalize)


def _converted(embeddings: np.ndarray | list[Any], *, to_numpy: bool, to_tensor: bool) -> Any:
    """As sentence-transformers converts: one tensor, one array, or a list of tensors."""
    if isinstance(embeddings, list):
        keep = to_numpy and not to_tensor
        return [
            each if keep or isinstance(each, Exception) else torch.from_numpy(each) for each in embeddings
        ]
    if to_tensor:
        return torch.from_numpy(embeddings)
    return embeddings if to_numpy else list(torch.from_numpy(embeddings))


def _embedding(outcome: Outcome) -> np.ndarray:
    assert isinstance(outcome, EncoderOutput) and outcome.embedding is not None
    return outcome.embedding


def _logits(outcome: EncoderOutput) -> np.ndarray:
    assert outcome.logits is not None
    return outcome.logits
