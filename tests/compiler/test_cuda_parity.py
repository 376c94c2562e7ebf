"""Modules with CUDA's operators against HF, run eagerly with kernels in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedModel

from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.models.build import build_encoder, describe_model
from precast.compiler.models.encode import Encode
from precast.compiler.targets.registry import get_target
from precast.compiler.verify.oracle import Oracle
from precast.graphs.encode import Task
from precast.tools.models import SMALL, VOCAB, write_small
from tests.support.artifacts import tiny_checkpoint, tiny_config
from tests.support.models import assert_as_hf, assert_close, build, packed
from tests.support.strategies import batches


def run(module: Encode, sequences: list[list[int]], **spare: int) -> torch.Tensor:
    """Return the output of ``module`` for a packed batch, without the buffers that only CPU graphs have."""
    buffers = packed(sequences, **spare)
    names = ["input_ids", "cu_seqlens"]
    if module.embeddings.token_types is not None:
        names.append("token_type_ids")
    with torch.no_grad():
        return module(**{name: buffers[name] for name in names})


@pytest.fixture(scope="module", params=SMALL)
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Encode]:
    """Return a small model of each family: HF's encoder, and precast's module for CUDA."""
    path = write_small(request.param, tmp_path_factory.mktemp("small") / request.param)
    is_t5 = request.param in ("t5", "umt5")
    model = (AutoModelForTextEncoding if is_t5 else AutoModel).from_pretrained(path, dtype=torch.float32)
    if model.config.is_encoder_decoder and not is_t5:
        model = model.get_encoder()
    return model.eval(), build(path, "hidden", "cuda").module


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sequences=batches(VOCAB), spare=st.integers(0, 40))
def test_hidden_states_of_every_family(
    small: tuple[PreTrainedModel, Encode], sequences: list[list[int]], spare: int
) -> None:
    model, module = small
    output = run(module, sequences, spare_tokens=spare, spare_sequences=spare % 3)
    assert torch.isfinite(output).all(), "outputs of unused tokens must be finite too"
    lengths = [len(sequence) for sequence in sequences]
    parts = output[: sum(lengths)].split(lengths)
    assert_as_hf(list(parts), model, sequences, "last_hidden_state")


@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_every_pooling(pooling: str, tmp_path: Path) -> None:
    check_task("embed", tiny_checkpoint("embed", tmp_path, pooling=(pooling,)))


@pytest.mark.parametrize("task", ["classify", "rerank"])
def test_classification_heads(task: Task, tmp_path: Path) -> None:
    check_task(task, tiny_checkpoint(task, tmp_path, config=tiny_config(labels=1 if task == "rerank" else 3)))


def check_task(task: Task, checkpoint: Path) -> None:
    """Compare sequences of different lengths, followed by unused ones, with HF's output for each."""
    opened = open_checkpoint(str(checkpoint))
    described = describe_model(opened, task)
    packed_ops = get_target("cuda").packed_ops(torch.float32, 64)
    module = build_encoder(opened, described, torch.float32, packed_ops).module
    sequences = [[5, 6, 7], [8], list(range(10, 43)), [9, 9]]
    output = run(module, sequences, spare_tokens=5, spare_sequences=2)
    assert torch.isfinite(output).all()
    assert_close(list(output[: len(sequences)]), Oracle(opened, described.spec).outputs(sequences))
