"""Every family in the engine, compared with Hugging Face's ``generate``; all requests run simultaneously."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from precast.artifacts.generation_defaults import GenerationDefaults
from precast.compiler.families.registry import FAMILIES
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.frontend.generation_config import read_generation_config
from precast.runtime.generation.core import GenerationCore
from tests.support.generation import LIMITS, Model
from tests.support.hf_generate import check, make_job, outputs_of
from tests.support.models import save
from tests.support.seq2seq_models import EVERY_CLASS, seq2seq_models

VOCAB = 41
FEW = settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LENGTHS = st.one_of(st.sampled_from([1, 2, 15, 16, 17]), st.integers(1, LIMITS.max_source_length))
TOKEN = st.one_of(st.integers(0, VOCAB - 1), st.sampled_from([0, 1, 4]))
"""Token ids of sources, including padding tokens of some families, which are ordinary tokens there."""
SOURCES = st.lists(LENGTHS.flatmap(lambda n: st.lists(TOKEN, min_size=n, max_size=n)), min_size=2, max_size=5)


@contextmanager
def served(model: PreTrainedModel) -> Iterator[tuple[GenerationCore, GenerationDefaults]]:
    checkpoint = save(model)
    engine = Model(checkpoint).engine()
    try:
        yield engine, read_generation_config(open_checkpoint(str(checkpoint)))
    finally:
        engine.close()


@pytest.mark.parametrize("family", EVERY_CLASS)
@FEW
@given(
    data=st.data(),
    sources=SOURCES,
    beams=st.integers(2, 4),
    length=st.integers(4, LIMITS.max_target_length),
    penalty=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_greedy_and_beams(
    family: str, data: st.DataObject, sources: list[list[int]], beams: int, length: int, penalty: float
) -> None:
    model = data.draw(seq2seq_models(family, VOCAB))
    searches: list[dict[str, Any]] = [
        {"num_beams": 1, "max_length": length},
        {"num_beams": beams, "max_length": length, "length_penalty": penalty},
    ]
    with served(model) as (engine, defaults):
        jobs = [make_job(call, source, (), VOCAB, defaults) for source in sources for call in searches]
        for job, output in zip(jobs, outputs_of(engine, jobs), strict=True):
            check(model, job, output)


def test_every_class_is_sampled() -> None:
    known = {name for one in FAMILIES if one.generation for name in one.generation.architectures}
    assert known == set(EVERY_CLASS.values())
