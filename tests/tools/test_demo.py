"""The second part of the demo at a small scale: its training, and that it notices a wrong output."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

import precast
from precast.tools.demo import generation
from precast.tools.demo.generators import count_generated, count_identical, pad_to_matrix, trim_after_eos
from precast.tools.synthetic import FORMS, Training, held_out_dates, write_dates_model

SHORT = Training(steps=30, batch=32)


def compiled(family: str, checkpoint: Path, folder: Path) -> Path:
    path = folder / f"{family}.precast"
    precast.compile(checkpoint, path, backend="reference", verify=False,
                    max_target_length=16, max_num_seqs=32, max_length=32)  # fmt: skip
    return path


def test_held_out_dates_cycle_through_all_forms() -> None:
    pairs = held_out_dates(40)
    assert pairs == held_out_dates(40) and pairs != held_out_dates(40, seed=1)
    assert pairs[0][0] == "September 9, 1986" and pairs[0][1] == "1986-09-09"
    assert pairs[1][0] == "9th of July 1952" and pairs[1][1] == "1952-07-09"
    for at, (text, iso) in enumerate(pairs):
        form = FORMS[at % len(FORMS)]
        assert text == form(date.fromisoformat(iso)) and "1950" <= iso < "2050"


def test_training_is_reproducible(tmp_path: Path) -> None:
    first, second = (write_dates_model("marian", tmp_path / name, SHORT) for name in ("a", "b"))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_equal_outputs_are_not_reported(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "ROUNDS", 1)
    checkpoint = write_dates_model(family, tmp_path / "right", SHORT)
    artifact = compiled(family, checkpoint, tmp_path)
    texts = tuple(text for text, _ in held_out_dates(4))
    assert generation.compare(family, checkpoint, {"fp32": artifact}, texts) == []


def test_a_wrong_output_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "ROUNDS", 1)
    checkpoint = write_dates_model("t5", tmp_path / "one", SHORT)
    other = write_dates_model("t5", tmp_path / "other", Training(steps=30, batch=32, seed=1))
    artifact = compiled("t5", other, tmp_path)
    texts = tuple(text for text, _ in held_out_dates(2))
    wrong = generation.compare("t5", checkpoint, {"fp32": artifact}, texts)
    assert "t5 greedy, precast fp32, one by one" in wrong and "t5 4 beams, precast fp32, as a list" in wrong


def test_outputs_are_compared_without_their_padding() -> None:
    one = pad_to_matrix([np.array([0, 5, 1]), np.array([0, 1])])
    other = pad_to_matrix([np.array([0, 5, 1]), np.array([0, 1, 7, 8])])
    assert one.tolist() == [[0, 5, 1], [0, 1, -1]] and count_generated(one) == 3
    assert count_identical(one, other) == 1 and count_identical(one, one) == 2
    assert trim_after_eos(np.array([0, 5, 1, 0, 0]), 1).tolist() == [0, 5, 1]
    assert trim_after_eos(np.array([0, 5, 0]), 1).tolist() == [0, 5, 0]
