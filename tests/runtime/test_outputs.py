"""Output classes, scores, truncation and similarity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from precast.runtime.errors import OptionError
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput, Timings
from precast.runtime.io.outputs import EncoderOutput, activate, similarity, truncate_and_normalize

FLOATS = st.floats(-80, 80, width=32)
MATRICES = arrays(np.float32, (3, 5), elements=FLOATS)


@given(logits=MATRICES)
def test_activations_are_torchs(logits: np.ndarray) -> None:
    tensor = torch.from_numpy(logits)
    np.testing.assert_allclose(activate(logits, "softmax"), tensor.softmax(-1), atol=1e-6)
    np.testing.assert_allclose(activate(logits, "sigmoid"), tensor.sigmoid(), atol=1e-6)
    assert activate(logits, "identity") is logits


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extreme", [-1e30, 1e30, 0.0])
def test_extreme_logits_give_finite_scores_without_a_warning(extreme: float) -> None:
    logits = np.array([extreme, 0.0], dtype=np.float32)
    for activation in ("softmax", "sigmoid"):
        assert np.isfinite(activate(logits, activation)).all()


@given(rows=MATRICES, size=st.integers(1, 5))
def test_truncation_comes_before_normalization(rows: np.ndarray, size: int) -> None:
    expected = torch.nn.functional.normalize(torch.from_numpy(rows)[:, :size], dim=-1)
    np.testing.assert_allclose(truncate_and_normalize(rows, size, True), expected, atol=1e-5)


@pytest.mark.parametrize("size", [0, 6, -1, 2.0, "3"])
def test_an_invalid_truncate_dim_is_rejected(size: object) -> None:
    with pytest.raises(OptionError, match="truncate_dim"):
        truncate_and_normalize(np.zeros((2, 5), np.float32), size, False)  # type: ignore[arg-type]


@given(a=MATRICES, b=MATRICES)
def test_similarities_are_torchs(a: np.ndarray, b: np.ndarray) -> None:
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    unit = torch.nn.functional.normalize
    np.testing.assert_allclose(similarity("cosine", a, b), unit(left) @ unit(right).T, atol=1e-5)
    np.testing.assert_allclose(similarity("dot", a, b), left @ right.T, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(
        similarity("manhattan", a, b), -torch.cdist(left, right, p=1), rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(similarity("euclidean", a, b), -torch.cdist(left, right), rtol=1e-3, atol=0.05)
    with pytest.raises(OptionError, match="similarity"):
        similarity("other", a, b)


def outputs() -> list[tuple[Callable[[int], object], str]]:
    """Functions that make an output of a token id, and the expected repr."""

    def encoded(token: int) -> EncoderOutput:
        ids = np.array([token, 3], np.int32)
        return EncoderOutput(ids, hidden=np.ones((2, 4), np.float32), truncated=True)

    def sequence(token: int) -> GeneratedSequence:
        ids = np.array([0, token], np.int32)
        return GeneratedSequence(ids, "a cat", -1.5, np.array([-1.5], np.float32), "stop", 1)

    def generated(token: int) -> GenerateOutput:
        source = np.array([5, 6, 7], np.int32)
        return GenerateOutput(source, (sequence(token),) * 2, False, Timings(0.1 * token, 0.2, 0.3))

    return [
        (encoded, "EncoderOutput(prompt_tokens=2, hidden=float32[2, 4], truncated=True)"),
        (sequence, "GeneratedSequence(text='a cat', score=-1.5000, tokens=1, finish_reason='stop')"),
        (
            generated,
            "GenerateOutput(text='a cat', score=-1.5000, input_tokens=3, generated_tokens=2, "
            "finish_reason='stop', other_sequences=1)",
        ),
    ]


@pytest.mark.parametrize(("make", "shown"), outputs())
def test_outputs_compare_hash_and_print(make: Callable[[int], object], shown: str) -> None:
    assert make(2) == make(2) and hash(make(2)) == hash(make(2)) and len({make(2), make(2)}) == 1
    assert make(2) != make(3) and make(2) != "something else"
    assert repr(make(2)) == shown


def test_an_output_iterates_over_its_array() -> None:
    output = EncoderOutput(np.array([1], np.int32), embedding=np.array([0.5, 1.5], np.float32))
    assert list(output) == [0.5, 1.5] and len(output) == 2 and output.values is output.embedding
    assert EncoderOutput(np.array([1], np.int32), hidden=np.empty((0, 4), np.float32)), "an output is true"
