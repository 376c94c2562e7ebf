"""What the runtime must know to turn a graph's output into an answer."""

from __future__ import annotations

from typing import Any, Literal

from precast.artifacts.manifest import ClassifyInfo, EmbedInfo, HiddenInfo
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceSettings, score_activation
from precast.compiler.models.spec import ClassifierSpec, EmbedderSpec, ModelSpec


def describe_output(
    spec: ModelSpec, checkpoint: Checkpoint, settings: SentenceSettings
) -> EmbedInfo | ClassifyInfo | HiddenInfo:
    """The manifest's account of a task's answer."""
    if isinstance(spec.head, EmbedderSpec):
        return EmbedInfo(
            size=spec.output_size,
            pooling=spec.head.pooling,
            include_prompt=spec.head.include_prompt,
            normalize=spec.head.normalize,
            prompts=settings.prompts,
            default_prompt_name=settings.default_prompt_name,
            similarity=settings.similarity,
        )
    if isinstance(spec.head, ClassifierSpec):
        names: dict[Any, str] = dict(checkpoint.config.id2label or {})
        labels = spec.head.labels
        return ClassifyInfo(
            labels=tuple(str(names.get(index, f"LABEL_{index}")) for index in range(labels)),
            activation=_pipeline_activation(checkpoint.config.problem_type, labels),
            score_activation=score_activation(checkpoint, labels),
        )
    return HiddenInfo(size=spec.output_size)


def _pipeline_activation(problem_type: str | None, labels: int) -> Literal["softmax", "sigmoid", "identity"]:
    """The rule of transformers' TextClassificationPipeline."""
    if problem_type == "regression":
        return "identity"
    if problem_type == "multi_label_classification" or labels == 1:
        return "sigmoid"
    return "softmax"
