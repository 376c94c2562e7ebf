"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Before any kernel is imported: what @triton.jit makes of it is decided there.
os.environ["TRITON_INTERPRET"] = "1"

from precast.tools.gpucheck.rehearsal import repair_interpreter
from tests.support.artifacts import TinyModels, tiny_artifact

repair_interpreter()

# Tiny models are no faster with a second thread, and waiting for it takes long.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled graphs of the tests stay out of the user's own cache; processes of one run share them."""
    temporary = tmp_path_factory.getbasetemp()
    run = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRECAST_CACHE", str(run / "precast-cache"))
        # What tests write outside tmp_path goes where pytest cleans up.
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("tempdir")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """``tiny[task].artifact`` and ``tiny[task].checkpoint``; do not change what lies there."""
    return TinyModels(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def compiled(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny["classify"]`` by the ``inductor`` backend, its weights bound by name; made once (10 s)."""
    if shutil.which("g++") is None:
        pytest.skip("compiling needs g++")
    output = tmp_path_factory.mktemp("compiled") / "classify.precast"
    return tiny_artifact(tiny["classify"].checkpoint, output, backend="inductor", prepack=False)
