"""``encode_source`` and ``decode`` with CUDA's operators against HF, eagerly in Triton's interpreter."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.seq2seq import check_every_step, eager
from tests.support.seq2seq_models import EVERY_CLASS, seq2seq_models
from tests.support.strategies import batches

VOCAB = 47


@pytest.mark.parametrize("family", EVERY_CLASS)
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data(), sources=batches(VOCAB), seed=st.integers(0, 99))
def test_every_step_of_every_family(
    family: str, data: st.DataObject, sources: list[list[int]], seed: int
) -> None:
    model = data.draw(seq2seq_models(family, VOCAB))
    check_every_step(model, sources, seed, start=2, make=eager, target="cuda")
