"""The task that the T5 of the benchmarks learns, and the reuse of its checkpoint."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from precast.tools.bench.generation_models import SHAPES, Shape, measured_sources, write_checkpoint
from precast.tools.bench.sorting import SOURCE_LENGTH, TARGET_LENGTH, Sorting, Training, held_out

BRIEF = Training(steps=3, batch=2, min_accuracy=0.0)
TINY = Shape("a tiny T5", "t5", 1000, hidden_size=16, inner_size=8, layers=1, heads=2, training=BRIEF)


def test_a_target_depends_on_the_words_but_not_on_their_order() -> None:
    task = Sorting(2000)
    (source, other), (target, unlike) = task.sample(2, random.Random(0))
    assert (len(source), len(target)) == (SOURCE_LENGTH, TARGET_LENGTH)
    assert len(set(source)) == SOURCE_LENGTH and not set(source) & set(target)
    assert source != other and target != unlike
    ((again,), (same,)) = Sorting(2000).sample(1, random.Random(0))
    assert (again, same) == (source, target), "the task is the same every time"


def test_measured_sources_are_inputs_of_the_task() -> None:
    shape = SHAPES[0]
    sources = measured_sources(shape, 16)
    assert sources == held_out(shape.vocab_size, 16) and len(set(sources)) == 16
    (trained,), _ = Sorting(shape.vocab_size).sample(1, random.Random("training"))
    assert trained not in sources
    with pytest.raises(ValueError, match="trained on 40 tokens, got a length of 7"):
        measured_sources(shape, 16, 7)
    assert len(measured_sources(replace(shape, training=None), 1, 7)[0]) == 7


def test_a_small_vocabulary_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected a vocabulary of 835 tokens or more, got 834"):
        Sorting(834)


def test_a_trained_model_is_reused_until_its_recipe_changes(tmp_path: Path) -> None:
    folder = write_checkpoint(TINY, tmp_path)
    weights = folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert write_checkpoint(TINY, tmp_path) == folder and weights.stat().st_mtime_ns == written
    first = load_file(weights)["shared.weight"]
    write_checkpoint(replace(TINY, training=replace(BRIEF, steps=4)), tmp_path)
    assert (load_file(weights)["shared.weight"] != first).any()


def test_a_model_that_has_not_learned_is_not_written(tmp_path: Path) -> None:
    shape = replace(TINY, training=replace(BRIEF, min_accuracy=0.9))
    with pytest.raises(RuntimeError, match=r"expected .* 90.0% after 3 steps, found .*train longer"):
        write_checkpoint(shape, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
