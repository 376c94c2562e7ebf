"""An output does not depend on the batch, the order, the bucket or earlier batches."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import MPNetConfig, MPNetModel

import precast
from precast.graphs.encode import LENGTH, SEQUENCES, TOKENS
from precast.graphs.graph_names import GraphName
from precast.runtime import Encoder
from precast.runtime.backends.graph_loader import open_replay
from precast.runtime.encoder.packing import fill
from precast.runtime.io.tokens import Tokens
from tests.support.models import save
from tests.support.strategies import batches

VOCAB = 61
TOLERANCE = 1e-5
"""Tolerance in fp32: the order of sums in a matrix product depends on its size."""
RELAXED = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=["reference", "inductor"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with positions that count padding, a relative bias and normalised mean pooling."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("invariance")
    config = MPNetConfig(
        vocab_size=VOCAB, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    save(MPNetModel(config), folder / "model")
    precast.compile(
        folder / "model", folder / "a", task="embed", max_tokens=256, max_batch=16, backend=request.param
    )
    return folder / "a"


@pytest.fixture(scope="module")
def engine(artifact: Path) -> Encoder:
    return precast.Encoder.load(artifact)


@RELAXED
@given(batch=batches(VOCAB, 40), seed=st.integers(0, 1000))
def test_an_output_does_not_depend_on_the_batch_or_its_order(
    engine: Encoder, batch: list[list[int]], seed: int
) -> None:
    alone = np.stack([engine.embed([ids])[0] for ids in batch])
    np.testing.assert_allclose(engine.embed(batch), alone, atol=TOLERANCE)
    order = random.Random(seed).sample(range(len(batch)), len(batch))
    shuffled = engine.embed([batch[place] for place in order])
    np.testing.assert_allclose(shuffled, alone[order], atol=TOLERANCE)


@RELAXED
@given(batch=batches(VOCAB, 40), budget=st.integers(1, 256))
def test_at_any_batch_budget(artifact: Path, engine: Encoder, batch: list[list[int]], budget: int) -> None:
    with precast.Encoder.load(artifact, batch_tokens=budget) as other:
        np.testing.assert_allclose(other.embed(batch), engine.embed(batch), atol=TOLERANCE)


@RELAXED
@given(batch=batches(VOCAB, 40), garbage=st.integers(0, VOCAB - 1), longer=st.integers(0, 9))
def test_at_every_bucket(
    artifact: Path, engine: Encoder, batch: list[list[int]], garbage: int, longer: int
) -> None:
    """Padding tokens, empty sequences and a longer key axis, as in a captured graph."""
    expected = engine.embed(batch)
    replay = open_replay(artifact, engine.manifest)
    exact = fill(replay, [Tokens(np.asarray(ids, np.int32), None) for ids in batch]).sizes
    used = int(sum(map(len, batch)))
    for bucket in engine.manifest.graphs[GraphName.ENCODE].buckets.sizes:
        if bucket < exact[TOKENS]:
            continue
        sizes = {TOKENS: bucket, SEQUENCES: 16, LENGTH: min(exact[LENGTH] + longer, 62)}
        buffers = replay.buffers_for(sizes)
        buffers.arrays["input_ids"][used:] = garbage
        buffers.arrays["cu_seqlens"][len(batch) + 1 :] = used
        buffers.arrays["key_positions"][:] = np.arange(sizes[LENGTH])
        (found,) = replay.launch(buffers).result()
        np.testing.assert_allclose(found.numpy()[: len(batch)], expected, atol=TOLERANCE)


def test_the_same_call_gives_the_same_bits(engine: Encoder) -> None:
    batch = [[5, 6, 7], [8], list(range(40))]
    assert np.array_equal(engine.embed(batch), engine.embed(batch))
