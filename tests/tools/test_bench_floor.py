"""The floor benchmark: the bytes of a step's weights, and the repeated last step of a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import open_graphs
from precast.runtime.replay import Graph
from precast.tools.bench import floor
from precast.tools.bench.floor import Reading, Step, bytes_per_step, measure
from precast.tools.bench.generation_models import TINY_SHAPES, Shape, measured_sources, write_checkpoint
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.precision import compile_as

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


def test_a_step_repeats_the_last_one_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[Tensor] = []

    def opened(*given: Any) -> dict[GraphName, Graph]:
        graphs = open_graphs(*given)

        def decode(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            outputs = graphs[GraphName.DECODE](inputs)
            scores.append(outputs[0].clone())
            return outputs

        return {**graphs, GraphName.DECODE: decode}

    monkeypatch.setattr(floor, "open_graphs", opened)
    shape, artifact = TINY_SHAPES[0], tmp_path / "tiny.precast"
    compile_as(write_checkpoint(shape, tmp_path), artifact, "fp32", "reference")
    step, job = Step(artifact, 1), Job(measured_sources(shape, 1), 5, 1)
    step.generate(job)
    again = scores[-5:]
    assert all(torch.equal(one, scores[4]) for one in again)
    assert not torch.equal(scores[3], scores[4]), "steps of one job differ"
    before = len(scores)
    step.generate(job)
    assert len(scores) == before + 5, "the job is generated only once"


def test_each_precision_has_times_of_a_token_a_step_and_reading(tmp_path: Path) -> None:
    shape = TINY_SHAPES[0]
    rows = measure(shape, write_checkpoint(shape, tmp_path), tmp_path / "artifacts", 1, "reference")
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "int8"]
    assert [row["bytes"] for row in rows] == [bytes_per_step(shape, row["precision"]) for row in rows]
    assert all(row[what]["median_ms"] > 0 for row in rows for what in ("token", "step", "reading"))


def test_reading_generates_nothing() -> None:
    assert Reading(4096, 1).generate(Job(((1,),), 3, 1)) == []
