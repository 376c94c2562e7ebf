"""Reads the generation parameters of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any

from pydantic import ValidationError
from transformers import GenerationConfig

from precast.artifacts.generation_defaults import (
    UNSUPPORTED,
    WITHOUT_EFFECT,
    GenerationDefaults,
    has_no_effect,
)
from precast.compiler.errors import CheckpointError, UnsupportedConfigError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.graphs.generation_parameters import BY_NAME

_FILE = "generation_config.json"
_HOUSEKEEPING = frozenset({"transformers_version", "_from_model_config"})


def read_generation_config(checkpoint: Checkpoint) -> GenerationDefaults:
    """Return the checkpoint's generation parameters, equal to transformers' ``model.generation_config``.

    Raises:
        CheckpointError: ``generation_config.json`` cannot be read, or transformers rejects its values.
        UnsupportedConfigError: The file sets a parameter that precast does not support, or an invalid value.
    """
    stated = {name: value for name, value in _load(checkpoint).to_dict().items() if value is not None}
    _refuse_unsupported(stated)
    values = {name: _as_tuples(stated[name]) for name in GenerationDefaults.model_fields if name in stated}
    for name in ("eos_token_id", "forced_eos_token_id"):
        if isinstance(values.get(name), int):
            values[name] = (values[name],)
    values["max_position_embeddings"] = getattr(checkpoint.config, "max_position_embeddings", None)
    try:
        return GenerationDefaults(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise UnsupportedConfigError(
            f"the checkpoint's {name} is {shortened(values[name])}: {first['msg']}; correct {_FILE}"
        ) from error


def _load(checkpoint: Checkpoint) -> GenerationConfig:
    """Return the file's parameters; without a file, those in the ``config.json`` of older checkpoints."""
    exists = (checkpoint.path / _FILE).is_file()
    try:
        if exists:
            return GenerationConfig.from_pretrained(checkpoint.path, local_files_only=True)
        return GenerationConfig.from_pretrained(
            checkpoint.path, config_file_name="config.json", _from_model_config=True, local_files_only=True
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # transformers would fall back to config.json and generate other outputs.
        raise CheckpointError(
            f"transformers cannot read {_FILE if exists else 'config.json'} as a generation configuration: "
            f"{error}; correct the file"
        ) from error


def _refuse_unsupported(stated: Mapping[str, Any]) -> None:
    for name, value in stated.items():
        if name in _HOUSEKEEPING or name in WITHOUT_EFFECT:
            continue
        supported = name in BY_NAME and BY_NAME[name].in_checkpoint
        if not supported and not (name in UNSUPPORTED and has_no_effect(value, UNSUPPORTED[name])):
            raise UnsupportedConfigError(
                f"the checkpoint's generation configuration sets {name} = {shortened(value)}, which precast "
                f"does not support; remove it from {_FILE} if it is not needed"
            )
    if stated.get("do_sample") and stated.get("num_beams", 1) != 1:
        raise UnsupportedConfigError(
            f"the checkpoint's generation configuration sets do_sample = True with num_beams = "
            f"{stated['num_beams']}, and precast does not sample beams; set one of them in {_FILE}"
        )


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
