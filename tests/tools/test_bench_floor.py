"""The memory floor of a step counts the weights that a step multiplies, no more and no fewer."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from precast.tools.bench.floor import Reading, bytes_per_step, measure
from precast.tools.bench.generation_models import TINY_SHAPES, Shape, write_checkpoint
from precast.tools.bench.peers.jobs import Job

ONCE_FOR_A_SOURCE = ("EncDecAttention.k", "EncDecAttention.v", "encoder_attn.k_proj", "encoder_attn.v_proj")


@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_the_weights_of_a_step_are_those_of_the_model(shape: Shape, tmp_path: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(write_checkpoint(shape, tmp_path))
    linear = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and ("decoder." in name or name == "lm_head")
        and not name.endswith(ONCE_FOR_A_SOURCE)
    ]
    assert sum(weight.numel() for weight in linear) == bytes_per_step(shape, "int8")
    assert (
        bytes_per_step(shape, "fp32")
        == 2 * bytes_per_step(shape, "bf16")
        == 4 * bytes_per_step(shape, "int8")
    )


def test_each_precision_is_measured_beside_reading_its_weights(tmp_path: Path) -> None:
    shape = TINY_SHAPES[0]
    rows = measure(shape, write_checkpoint(shape, tmp_path), tmp_path / "artifacts", 1, "reference")
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "int8"]
    assert all(
        row["token"]["median_ms"] > row["step"]["median_ms"] > row["reading"]["median_ms"] for row in rows
    )


def test_reading_generates_nothing() -> None:
    assert Reading(4096, 1).generate(Job(((1,),), 3, 1)) == []
