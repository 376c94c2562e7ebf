"""Int8 quantization: the rounding, and whole encoders and encoder-decoders in both backends."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import MarianConfig, MarianMTModel, PreTrainedModel, T5Config, T5ForConditionalGeneration

import precast
from precast.artifacts import host
from precast.artifacts.reader import read_manifest
from precast.compiler.errors import CompileError
from precast.compiler.options import CompileOptions
from precast.compiler.quantization.calibration import random_inputs
from precast.compiler.quantization.linear_int8 import QuantizedLinear
from precast.compiler.quantization.quantize import quantize
from precast.compiler.targets.registry import get_target, select_target
from precast.compiler.targets.target import LoweringOptions
from tests.support.artifacts import tiny_checkpoint, tiny_config
from tests.support.models import save

Backend = Literal["reference", "inductor"]
BATCH = [[5, 6, 7], [8], list(range(10, 43)), [9, 9]]
on_avx512 = pytest.mark.skipif(
    not {"avx512_bf16", "avx512_vnni"} <= host.instruction_sets(), reason="the kernels require AVX-512"
)


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    inner=st.integers(1, 70),
    columns=st.integers(1, 20),
    shift=st.sampled_from([-10.0, 0.0, 4.0]),
    outlier=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_rounding_error_is_at_most_half_a_step_of_each_factor(
    rows: int, inner: int, columns: int, shift: float, outlier: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(rows, inner) + shift, torch.randn(columns, inner), torch.randn(columns)
    if outlier:
        x[:, 0] *= 50
    layer = QuantizedLinear(weight, bias, x.abs().amax(0))
    smoothed, balanced = x * layer.smooth, weight / layer.smooth
    step = (smoothed.amax(1).clamp(min=0) - smoothed.amin(1).clamp(max=0)) / 255
    # |x w - x' w'| <= |x - x'| |w'| + |x| |w - w'|, summed; a zero point adds an error of half a step.
    bound = (step[:, None] * layer.weight.float().abs().sum(1) * layer.scale) + (
        smoothed.abs().sum(1)[:, None] * layer.scale / 2
    )
    error = (layer(x) - nn.functional.linear(x, weight, bias)).abs()
    assert bool((error <= bound * 1.01 + 1e-4).all())
    assert torch.allclose(layer.weight * layer.scale[:, None], balanced, atol=float(layer.scale.max()) * 0.51)


def test_all_zero_weights_and_inputs() -> None:
    layer = QuantizedLinear(torch.zeros(3, 5), torch.ones(3), torch.zeros(5))
    assert torch.equal(layer(torch.zeros(2, 5)), torch.ones(2, 3))


def test_only_layers_of_the_stacks_are_quantized() -> None:
    model = nn.ModuleDict(
        {"encoder": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)])}), "head": nn.Linear(4, 2)}
    )

    def run() -> None:
        model["encoder"]["layers"][0](torch.ones(1, 4))  # type: ignore[index]

    quantized = quantize(model, run)
    assert isinstance(quantized["encoder"]["layers"][0], QuantizedLinear)  # type: ignore[index]
    assert quantized["head"] is not model["head"] and isinstance(quantized["head"], nn.Linear)
    assert isinstance(model["encoder"]["layers"][0], nn.Linear)  # type: ignore[index]


def test_random_inputs_are_within_the_limits() -> None:
    for longest in (1, 2, 40, 4000):
        inputs = random_inputs(61, longest, None)
        assert all(0 < len(ids) <= min(longest, 128) and max(ids) < 61 for ids in inputs)


@pytest.mark.parametrize(
    "given_options, message",
    [
        ({"quantize": "int4"}, "quantize must be one of int8"),
        ({"prepack": False}, "expected prepack"),
    ],
)
def test_unsupported_options_are_rejected(given_options: dict[str, object], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        select_target(CompileOptions("m", Path("o"), **{"quantize": "int8", **given_options}))  # type: ignore[arg-type]


@pytest.mark.skipif(find_spec("triton") is None, reason="the target cuda requires Triton")
def test_cuda_does_not_support_quantization() -> None:
    with pytest.raises(CompileError, match="target cuda does not support quantization int8"):
        get_target("cuda").check(LoweringOptions("fp32", True, None, (9, 0)), "int8")


def test_missing_instruction_sets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "instruction_sets", lambda: frozenset({"avx2"}))
    with pytest.raises(CompileError, match="avx512_vnni.*which this one lacks; remove the option quantize"):
        select_target(CompileOptions("m", Path("o"), quantize="int8"))
    options = CompileOptions("m", Path("o"), quantize="int8", backend="reference")
    assert select_target(options).name == "reference"


@on_avx512
def test_an_encoder_in_both_backends(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("embed", tmp_path, config=tiny_config())
    embeddings = {}
    backends: tuple[Backend, ...] = ("reference", "inductor")
    for backend in backends:
        output = tmp_path / backend
        manifest = precast.compile(
            checkpoint,
            output,
            quantize="int8",
            backend=backend,
            max_tokens=256,
            check_speed=False,
        )
        assert manifest.build.quantization == "int8" and manifest.build.precision == "int8"
        assert manifest.parity is not None and manifest.parity.min_cosine >= 0.99
        with precast.Encoder.load(output) as engine:
            embeddings[backend] = np.stack([output.embedding for output in engine.encode(BATCH)])
    # A number halfway between two steps may be rounded to either.
    np.testing.assert_allclose(embeddings["inductor"], embeddings["reference"], atol=2e-2)
    assert read_manifest(tmp_path / "inductor").model.parameters == parameters_of(checkpoint, tmp_path)


def parameters_of(checkpoint: Path, folder: Path) -> int:
    return precast.compile(checkpoint, folder / "whole", backend="reference").model.parameters


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=47, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0,
        )
    )  # fmt: skip


def marian() -> PreTrainedModel:
    return MarianMTModel(
        MarianConfig(
            vocab_size=47, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
            decoder_start_token_id=46, pad_token_id=46, eos_token_id=0, init_std=0.2,
        )
    )  # fmt: skip


@on_avx512
@pytest.mark.parametrize("make, backend", [(t5, "inductor"), (t5, "reference"), (marian, "reference")])
def test_an_encoder_decoder(make: Callable[[], PreTrainedModel], backend: Backend, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make().eval()
    model.generation_config.eos_token_id = None
    manifest = precast.compile(
        save(model, tmp_path / "model"), tmp_path / "out", quantize="int8", backend=backend,
        max_length=40, max_target_length=16, max_num_seqs=4, check_speed=False,
    )  # fmt: skip
    assert manifest.parity is not None and manifest.parity.min_cosine >= 0.99
    with precast.Seq2Seq.load(tmp_path / "out") as engine:
        alone = [engine.generate([ids], max_new_tokens=8)[0].token_ids.tolist() for ids in BATCH]
        batched = [output.token_ids.tolist() for output in engine.generate(BATCH, max_new_tokens=8)]
    assert alone == batched
