"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.artifacts import TinyModels

# Tiny models gain nothing from a second thread and lose much waiting for it.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled graphs of the tests stay out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRECAST_CACHE", str(tmp_path_factory.mktemp("precast-cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """``tiny[task].artifact`` and ``tiny[task].checkpoint``; do not change what lies there."""
    return TinyModels(tmp_path_factory.mktemp("tiny"))
