"""The profile: every sample counts once, for what it was doing."""

from __future__ import annotations

import pytest

from precast.tools.bench.profile import GROUPS, group_of, shares

SAMPLES = {
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Identity, c10::BFloat16>, 6, 4> (/x/encode.so)": (
        "products of linear layers"
    ),
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Gelu, c10::BFloat16>, 12, 2> (/x/encode.so)": (
        "products with GELU inside"
    ),
    "7f1 precast::quantize_row<c10::BFloat16> (/x/encode.so)": "quantizing rows",
    "7f1 precast::Head<precast::Bf16>::score_panel<12, 2> (/x/encode.so)": "attention",
    "7f1 precast::packed_attention<precast::Bf16> (/x/encode.so)": "attention",
    "7f1 cpp_fused_add_native_layer_norm_4._omp_fn.0 (/x/encode.so)": "norms, sums, embeddings, pooling",
    "7f1 [unknown] (/x/libgomp.so.1)": "threads that wait",
    "7f1 _PyEval_EvalFrameDefault (/x/libpython3.11.so.1.0)": "Python and the rest",
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_has_its_group(sample: str) -> None:
    assert group_of(sample) == SAMPLES[sample]


def test_shares_add_up() -> None:
    found = shares([*SAMPLES, "7f1 main (/x/python)"])
    assert list(found) == list(GROUPS) and sum(found.values()) == pytest.approx(1, abs=1e-3)
    assert found["Python and the rest"] == pytest.approx(2 / 9, abs=1e-4)
    assert not any(shares([]).values())
