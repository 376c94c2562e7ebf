"""Records the results of Inductor's autotuning, for the manifest and the next compilation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch._inductor import select_algorithm
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from precast.compiler.cache_folder import cache_folder

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def autotune_log() -> Iterator[dict[str, str]]:
    """Record the fastest kernel of each autotuned operation.

    Inductor stores the times of all candidates by shape and dtype in its cache folder and does not measure
    them again. That folder is within the cache of precast, unless ``TORCHINDUCTOR_CACHE_DIR`` is set.

    Returns:
        A dictionary that is filled until exit: name and shapes of the operation, and name of the kernel.
    """
    winners: dict[str, str] = {}

    def record(timings: dict[Any, float], name: str, inputs: list[Any], *rest: object) -> None:
        if timings:
            best = min(timings, key=lambda choice: timings[choice])
            # Names end in a running number.
            kernel = re.sub(r"_\d+$", "", best.name)
            winners[f"{name} {_shapes(inputs)}"] = f"{kernel} {getattr(best, 'description', '')}".strip()

    configured = os.environ.get(_FOLDER)
    # torch writes its own default into the variable when it first reads it.
    is_default = configured in (None, default_cache_dir())
    folder = str(cache_folder() / "inductor") if is_default else str(configured)
    with patch.dict(os.environ, {_FOLDER: folder}):
        select_algorithm.add_feedback_saver(record)
        try:
            yield winners
        finally:
            select_algorithm.clear_feedback_savers()


def _shapes(inputs: list[Any]) -> str:
    """Return the shapes as in ``*x768 768x3072``; a star is a size that varies with the batch."""
    sizes = [[str(size) if str(size).isdigit() else "*" for size in node.get_size()] for node in inputs]
    return " ".join("x".join(shape) for shape in sizes)
