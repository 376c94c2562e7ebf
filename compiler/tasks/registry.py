"""The registry of tasks, and the detection of a checkpoint's task."""

from __future__ import annotations

from collections.abc import Mapping

from precast.compiler.families.registry import family_of
from precast.compiler.frontend.checkpoint import Checkpoint, read_weights
from precast.compiler.frontend.sentence_transformers import is_cross_encoder, read_modules
from precast.compiler.models.weights import canonical_names
from precast.compiler.tasks.encode import ENCODE
from precast.compiler.tasks.generate import GENERATE
from precast.compiler.tasks.task import Task
from precast.graphs.encode import Task as TaskName

TASKS: Mapping[TaskName, Task] = {
    "embed": ENCODE,
    "classify": ENCODE,
    "rerank": ENCODE,
    "token-classify": ENCODE,
    "hidden": ENCODE,
    "generate": GENERATE,
}


def detect_task(checkpoint: Checkpoint) -> TaskName:
    """Return the task that a checkpoint was trained for (``--task auto``)."""
    architecture = (checkpoint.config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "rerank" if is_cross_encoder(checkpoint) else "classify"
    if architecture.endswith("ForTokenClassification"):
        return "token-classify"
    if _generates(checkpoint, architecture):
        return "generate"
    return "embed" if read_modules(checkpoint) is not None else "hidden"


def _generates(checkpoint: Checkpoint, architecture: str) -> bool:
    """Return whether HF can generate with this checkpoint and the checkpoint holds a decoder."""
    family = family_of(checkpoint.config.model_type)
    if family.generation is None or read_modules(checkpoint) is not None:
        return False
    if architecture in family.generation.architectures:
        return True
    # Saved without a head, or by a tool that names no class: the head is tied to the token embeddings.
    bare = not architecture or (architecture.endswith("Model") and not architecture.endswith("EncoderModel"))
    if not bare:
        return False
    weights = canonical_names(read_weights(checkpoint.path), family.prefix)
    return any(name.startswith("decoder.") for name in weights)
