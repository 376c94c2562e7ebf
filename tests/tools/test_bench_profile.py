"""The profile: every sample counts once, for the group of its function."""

from __future__ import annotations

import pytest

from precast.tools.bench.profile import DECODER, ENCODER, GROUPS, group_of, shares

ENCODING = {
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Identity, c10::BFloat16>, 6, 4> (/x/encode.so)": (
        "linear layers"
    ),
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Gelu, c10::BFloat16>, 12, 2> (/x/encode.so)": (
        "linear layers with fused GELU"
    ),
    "7f1 precast::quantize_row<c10::BFloat16> (/x/encode.so)": "activation quantization",
    "7f1 precast::Head<precast::Bf16>::score_panel<12, 2> (/x/encode.so)": "attention",
    "7f1 precast::packed_attention<precast::Bf16> (/x/encode.so)": "attention",
    "7f1 cpp_fused_add_native_layer_norm_4._omp_fn.0 (/x/encode.so)": "norms, residuals, embeddings, pooling",
    "7f1 precast::norm<true, c10::BFloat16> (/x/encode.so)": "norms, residuals, embeddings, pooling",
    "7f1 [unknown] (/x/libgomp.so.1)": "idle OpenMP threads",
    "7f1 _PyEval_EvalFrameDefault (/x/libpython3.11.so.1.0)": "Python and other",
}


GENERATING = {
    "7 precast::multiply_tile<precast::Int8Panel<precast::Relu, c10::BFloat16>, 12, 2> (/encode_source.so)": (
        "source encoder"
    ),
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Identity, float>, 12, 2> (/x/decode.so)": (
        "vocabulary projection"
    ),
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Identity, c10::BFloat16>, 6, 4> (/x/decode.so)": (
        "other linear layers"
    ),
    "7f1 precast::multiply_tile<precast::Int8Panel<precast::Relu, c10::BFloat16>, 6, 4> (/x/decode.so)": (
        "other linear layers"
    ),
    "7f1 precast::quantize_row<c10::BFloat16> (/x/decode.so)": "activation quantization",
    "7f1 precast::decode_attention<c10::BFloat16> (/x/decode.so)": "attention over the KV cache",
    "7f1 cpp_fused__log_softmax__to_copy_1 (/x/logits_processors.so)": "logits processors and sampling",
    "7f1 cpp_fused_argmax_2 (/x/sample.greedy.so)": "logits processors and sampling",
    "7f1 Sleef_finz_expf16_u10avx512f (/x/libtorch_cpu.so)": "logits processors and sampling",
    "7f1 cpp_fused_mean_pow_4._omp_fn.0 (/x/decode.so)": "norms, residuals, embeddings",
    "7f1 precast::norm<false, c10::BFloat16> (/x/decode.so)": "norms, residuals, embeddings",
    "7f1 precast::log_softmax_terms (/x/logits_processors.so)": "logits processors and sampling",
    "7f1 [unknown] (/x/libgomp.so.1)": "idle OpenMP threads",
    "7f1 gc_collect_main (/x/libpython3.11.so.1.0)": "Python and other",
}
SAMPLES = {ENCODER: ENCODING, DECODER.name: GENERATING}


@pytest.mark.parametrize("model", SAMPLES)
def test_a_sample_has_its_group(model: str) -> None:
    assert {sample: group_of(sample, GROUPS[model]) for sample in SAMPLES[model]} == SAMPLES[model]


@pytest.mark.parametrize("model", SAMPLES)
def test_shares_add_up(model: str) -> None:
    found = shares([*SAMPLES[model], "7f1 main (/x/python)"], GROUPS[model])
    assert list(found) == list(GROUPS[model]) and sum(found.values()) == pytest.approx(1, abs=1e-3)
    assert found["Python and other"] == pytest.approx(2 / (len(SAMPLES[model]) + 1), abs=1e-4)
    assert not any(shares([], GROUPS[model]).values())
