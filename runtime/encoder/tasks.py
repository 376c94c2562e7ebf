"""Encode tasks: the checked arguments of a call, and the function that turns outputs into its result.

``Encoder`` and ``AsyncEncoder`` share these functions and differ only in how they wait. Arguments are
documented at ``Encoder``; tasks of classifiers are in ``encoder.classification``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from precast.artifacts.manifest import EmbedInfo, EncodeManifest
from precast.runtime.errors import OptionError, TaskError
from precast.runtime.io.inputs import split
from precast.runtime.io.outputs import EncoderOutput, truncate_and_normalize
from precast.runtime.io.preprocessor import Pairs
from precast.runtime.io.tokenization import Truncate

Outcome = EncoderOutput | Exception
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of prompts, in the order in which sentence-transformers tries them."""


@dataclass(frozen=True)
class EncodeTask:
    """One call of a method of ``Encoder``.

    Attributes:
        inputs: The inputs, not parsed yet.
        finish: Turns the outcome of each input, in the same order, into the result of the call.
        truncate: How over-long inputs are truncated.
        prompt: Text that is put before every input.
        pairs: Whether inputs may, or must, be pairs of texts.
        return_exceptions: Whether errors of inputs are results; otherwise the first one is raised.
    """

    inputs: list[Any]
    finish: Callable[[Sequence[Outcome]], Any]
    truncate: Truncate = True
    prompt: str = ""
    pairs: Pairs = "allowed"
    return_exceptions: bool = False

    def result(self, outcomes: Sequence[Outcome]) -> Any:
        """Return the result of the call, or raise the first error unless ``return_exceptions`` is set."""
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
    """Return the task of ``Encoder.encode``."""
    items, single = split(inputs, pairs=True)
    return EncodeTask(
        items,
        finish=lambda outcomes: outcomes[0] if single else list(outcomes),
        truncate=check_truncate(truncate),
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
    """Return the task of ``Encoder.embed``."""
    info = manifest.output
    if not isinstance(info, EmbedInfo):
        raise TaskError(
            f"embed needs an artifact compiled with --task embed, this one is {manifest.model.task}"
        )
    items, single = split(inputs, pairs=False)
    # Check truncate_dim before anything is computed.
    truncate_and_normalize(np.empty((0, info.size), dtype=np.float32), truncate_dim, False)

    def finish(outcomes: Sequence[Outcome]) -> Any:
        embeddings = _embeddings(outcomes, info.size, truncate_dim, normalize_embeddings)
        converted = _converted(embeddings, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
        return converted[0] if single else converted

    return EncodeTask(
        items,
        finish,
        truncate=check_truncate(truncate),
        prompt=_prompt(manifest, prompt_name, prompt),
        pairs="refused",
        return_exceptions=return_exceptions,
    )


def with_prompt_of(manifest: EncodeManifest, options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return options of ``embed`` with the first of ``names`` that is a prompt, unless one is given."""
    prompts = manifest.output.prompts if isinstance(manifest.output, EmbedInfo) else {}
    if options.get("prompt") is not None or options.get("prompt_name") is not None:
        return options
    return {**options, "prompt_name": next((name for name in names if name in prompts), None)}


def check_truncate(truncate: Truncate) -> Truncate:
    """Return the option ``truncate`` unchanged.

    Raises:
        OptionError: The value is not one of True, False, ``"left"`` and ``"right"``.
    """
    if isinstance(truncate, bool) or (isinstance(truncate, str) and truncate in ("left", "right")):
        return truncate
    raise OptionError(f"truncate must be True, False, 'left' or 'right', found {truncate!r}")


def _prompt(manifest: EncodeManifest, prompt_name: str | None, prompt: str | None) -> str:
    """Return the prompt as sentence-transformers does: ``prompt``, else ``prompt_name``, else the default."""
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
    """Return all embeddings in one array, or a list of arrays and errors if an input failed."""
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
    """Return embeddings in one of sentence-transformers' forms: a tensor, an array, or a list of tensors."""
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
