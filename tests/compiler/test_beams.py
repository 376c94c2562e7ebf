"""Beam search in the engine against Hugging Face's ``generate``, with simultaneous requests of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from precast.runtime.generation.core import GenerationCore
from tests.support.generation import LIMITS, Model
from tests.support.hf_generate import Job, check, make_job, outputs_of
from tests.support.models import save
from tests.support.sampling import bias_values, some_of
from tests.support.seq2seq_models import spread_t5

VOCAB = 37
SEARCH = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SEARCHES: dict[str, st.SearchStrategy[Any]] = {
    "length_penalty": st.sampled_from([-2.0, -0.5, 0.0, 0.7, 2.0]),
    "early_stopping": st.sampled_from([True, "never"]),
    "renormalize_logits": st.just(True),
}
VALUES = bias_values(VOCAB) | SEARCHES
SOURCES = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=LIMITS.max_source_length)
PREFIXES = st.lists(st.integers(0, VOCAB - 1), max_size=3)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return spread_t5(VOCAB)


@pytest.fixture(scope="module")
def engine(model: PreTrainedModel) -> Iterator[GenerationCore]:
    worker = Model(save(model)).engine()
    yield worker
    worker.close()


@st.composite
def jobs(draw: st.DrawFn, values: dict[str, st.SearchStrategy[Any]], max_values: int) -> Job:
    call = draw(some_of(values, max_values)) | {
        "num_beams": draw(st.integers(2, 6)),
        "max_length": draw(st.integers(5, LIMITS.max_target_length)),
        "eos_token_id": draw(st.sampled_from([[1], [1, 2], [5, 9, 1, 30]])),
    }
    return make_job(call, draw(SOURCES), draw(PREFIXES), VOCAB)


def check_jobs(engine: GenerationCore, model: PreTrainedModel, requests: list[Job]) -> None:
    """Check that simultaneous requests have Hugging Face's outputs."""
    for job, output in zip(requests, outputs_of(engine, requests), strict=True):
        check(model, job, output)


@SEARCH
@given(requests=st.lists(jobs(VALUES, 5), min_size=1, max_size=5))
def test_mixed_searches(engine: GenerationCore, model: PreTrainedModel, requests: list[Job]) -> None:
    check_jobs(engine, model, requests)


@settings(SEARCH, max_examples=40)
@given(requests=st.lists(jobs(SEARCHES, 3), min_size=3, max_size=6))
def test_searches_without_logits_processors(
    engine: GenerationCore, model: PreTrainedModel, requests: list[Job]
) -> None:
    check_jobs(engine, model, requests)


@pytest.mark.parametrize("name", VALUES)
@settings(SEARCH, max_examples=4)
@given(data=st.data())
def test_each_parameter_alone(
    name: str, data: st.DataObject, engine: GenerationCore, model: PreTrainedModel
) -> None:
    with_parameter = jobs({name: VALUES[name]}, 1).filter(lambda job: name in job.call)
    check_jobs(engine, model, data.draw(st.lists(with_parameter, min_size=2, max_size=3)))
