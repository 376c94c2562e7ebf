"""Opens checkpoints, from a local directory or the Hugging Face hub, and reads their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from precast.compiler.errors import CheckpointError

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "pytorch_model*.bin", "*/config.json",
           "*/*.safetensors", "*/pytorch_model.bin")  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A directory with ``config.json``, weights and usually a tokenizer.

    Attributes:
        name: directory or hub id as given by the user.
        path: folder of the transformer; in a sentence-transformers directory it may be below ``root``.
        root: directory of the checkpoint; with ``modules.json`` if sentence-transformers wrote it.
        config: configuration of the transformer.
    """

    name: str
    path: Path
    root: Path
    config: PreTrainedConfig

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file in the root directory; None if it does not exist.

        Raises:
            CheckpointError: The file is not valid JSON.
        """
        return read_json(self.root / name)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if it does not exist.

    Raises:
        CheckpointError: The file is not valid JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's {path.name} is not valid JSON: {error}") from error


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open a local directory, or download ``model`` from the Hugging Face hub.

    Args:
        model: A directory or a hub id.
        revision: Branch, tag or commit on the hub; default the main branch.

    Raises:
        CheckpointError: The model cannot be found or downloaded, or has no valid ``config.json``.
    """
    root = Path(model)
    if not root.is_dir():
        root = _download(model, revision)
    path = _transformer_folder(root)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{model} has no config.json; expected a Hugging Face checkpoint")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"transformers cannot read the configuration of {model}: {error}") from error
    return Checkpoint(name=model, path=path, root=root, config=config)


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_FILES)))
    except (HFValidationError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{model!r} is not a local directory and could not be downloaded from the hub: {error}"
        ) from error


def _transformer_folder(root: Path) -> Path:
    for module in read_json(root / "modules.json") or []:
        if str(module.get("type", "")).endswith(".Transformer"):
            return root / module.get("path", "")
    return root


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors in a folder by name; safetensors files are preferred to pickles.

    Raises:
        CheckpointError: There are no weights, or a shard is missing or damaged.
    """
    for stem, read in (("model.safetensors", load_file), ("pytorch_model.bin", _read_pickle)):
        index = read_json(folder / f"{stem}.index.json")
        shards = sorted(set(index["weight_map"].values())) if index else [stem]
        if not index and not (folder / stem).is_file():
            continue
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            try:
                tensors |= read(folder / shard)
            except Exception as error:  # the readers raise many kinds of errors
                raise CheckpointError(f"the weights file {shard} cannot be read: {error}") from error
        return tensors
    raise CheckpointError(
        f"expected model.safetensors or pytorch_model.bin, or their index, in {folder}; found none"
    )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return dict(loaded)
