"""A small T5, and an idle engine for reference outputs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from precast.runtime.generation.core import GenerationCore
from tests.support.generation import Model
from tests.support.random_requests import write_t5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_t5(tmp_path_factory.mktemp("t5")))


@pytest.fixture(scope="module")
def alone(model: Model) -> Iterator[GenerationCore]:
    engine = model.engine(max_batch_delay_steps=0)
    yield engine
    engine.close()
