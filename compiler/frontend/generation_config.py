"""The parameters of generation that a checkpoint comes with."""

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
    asks_for_nothing,
)
from precast.compiler.errors import CheckpointError, UnsupportedConfigError
from precast.compiler.frontend.checkpoint import Checkpoint

_FILE = "generation_config.json"
_HOUSEKEEPING = frozenset({"transformers_version", "_from_model_config"})


def read_generation_config(checkpoint: Checkpoint) -> GenerationDefaults:
    """What ``model.generation_config`` would be, had transformers loaded the checkpoint.

    Raises:
        CheckpointError: ``generation_config.json`` cannot be read, or transformers refuses its values.
        UnsupportedConfigError: it asks for something that precast does not do, or has a value that
            generation could not use.
    """
    found = _load(checkpoint).to_dict()
    found = {name: value for name, value in found.items() if value is not None}
    _refuse_unsupported(found)
    values = {name: _as_tuples(found[name]) for name in GenerationDefaults.model_fields if name in found}
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
    """The file if there is one, else whatever an older ``config.json`` says of generation."""
    own = (checkpoint.path / _FILE).is_file()
    try:
        if own:
            return GenerationConfig.from_pretrained(checkpoint.path, local_files_only=True)
        return GenerationConfig.from_pretrained(
            checkpoint.path, config_file_name="config.json", _from_model_config=True, local_files_only=True
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # transformers falls back to config.json where its reading fails, and would answer otherwise.
        raise CheckpointError(
            f"transformers cannot read {_FILE if own else 'config.json'} as a generation configuration: "
            f"{error}; correct the file"
        ) from error


def _refuse_unsupported(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name in _HOUSEKEEPING or name in WITHOUT_EFFECT:
            continue
        supported = name in GenerationDefaults.model_fields and name != "max_position_embeddings"
        if not supported and not (name in UNSUPPORTED and asks_for_nothing(value, UNSUPPORTED[name])):
            raise UnsupportedConfigError(
                f"the checkpoint's generation configuration sets {name} = {shortened(value)}, which precast "
                f"does not support; remove it from {_FILE} if you can do without"
            )
    if found.get("do_sample") and found.get("num_beams", 1) != 1:
        raise UnsupportedConfigError(
            f"the checkpoint's generation configuration sets do_sample = True with num_beams = "
            f"{found['num_beams']}, and precast does not sample beams; set one of them in {_FILE}"
        )


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(one) for one in value) if isinstance(value, list | tuple) else value
