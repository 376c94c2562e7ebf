"""Which captured graph serves a batch, and what is written into its inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.sampling import rules_signature
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.generation import generation_ladder
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.memory import example_batches
from precast.runtime.generation.cuda.batch_descriptor import Recipe
from precast.runtime.generation.sampling_params import Plan, Rule
from precast.runtime.generation.request import Active
from precast.runtime.cuda.layout import Layout
from tests.support.random_requests import VOCAB, beams, greedy, samples
from tests.support.generation import request

LENGTH = 12


@st.composite
def plans(draw: st.DrawFn, most_rows: int) -> Plan:
    """Of every mode, with rules that look at different lengths of what was written."""
    rules = tuple(
        Rule(2 + at, -1.0, prefix=tuple(range(2, 2 + length)))
        for at, length in enumerate(draw(st.lists(st.integers(0, 5), max_size=5)))
    )
    rows = draw(st.integers(1, min(5, most_rows)))
    mode = draw(st.sampled_from(["greedy", "sample", "beam"] if rows > 1 else ["greedy", "sample"]))
    if mode == "beam":
        return beams(rows, LENGTH, rules=rules)
    if mode == "sample":
        return samples(rows, 3, LENGTH, rules=rules, top_k=draw(st.integers(0, 9)))
    return greedy(LENGTH, rules=rules, no_repeat_ngram_size=draw(st.integers(0, 6)))


def batch_of(plan: Plan, count: int, max_rows: int) -> ActiveBatch:
    rows = np.arange(count * plan.rows).reshape(count, plan.rows).tolist()
    active = tuple(Active(request([5, 6], plan), tuple(some)) for some in rows)
    return ActiveBatch(active, VOCAB, max_rows)


@given(data=st.data(), max_rows=st.integers(1, 70), steps=st.integers(1, 4))
def test_any_number_of_requests_of_one_kind_meets_a_captured_graph(
    data: st.DataObject, max_rows: int, steps: int
) -> None:
    limits = GenerateLimits(8, LENGTH, 8, 2, max_rows)
    ladder, rules = generation_ladder("decode", limits, "cuda"), rules_signature(limits, VOCAB)
    plan = data.draw(plans(max_rows))
    made = request([0], plan)
    captured = {
        Recipe.of(batch, n, ladder, rules) for batch, n in example_batches(made, VOCAB, ladder, steps)
    }
    count = data.draw(st.integers(1, max_rows // plan.rows))
    recipe = Recipe.of(batch_of(plan, count, max_rows), steps, ladder, rules)
    assert recipe in captured
    assert len(captured) <= 2 * len(ladder.buckets)


@given(data=st.data(), max_rows=st.integers(1, 40))
def test_what_is_written_is_the_batch_and_nothing_of_the_one_before(
    data: st.DataObject, max_rows: int
) -> None:
    limits = GenerateLimits(8, LENGTH, 8, 2, max_rows)
    ladder, rules = generation_ladder("decode", limits, "cuda"), rules_signature(limits, VOCAB)
    plan = data.draw(plans(max_rows))
    batch = batch_of(plan, data.draw(st.integers(1, max_rows // plan.rows)), max_rows)
    recipe = Recipe.of(batch, 1, ladder, rules)
    layout = Layout.of(recipe.buffers(rules), {})
    arrays = layout.arrays(torch.full((layout.nbytes,), 77, dtype=torch.uint8))
    recipe.write(batch, arrays)
    count = len(batch.rows)
    assert recipe.rows >= count
    np.testing.assert_array_equal(arrays["rows"][:count], batch.rows)
    assert (arrays["rows"][count:] == batch.rows[-1]).all()
    (choice,) = batch.choices
    for name in ("chosen", "at"):
        found, wanted = arrays[f"{name}_0"], choice.buffers[name].numpy()
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert (found[len(wanted) :] == wanted[-1]).all()
    if batch.rules is not None:
        entries, length = batch.rules["rule_prefixes"].shape
        np.testing.assert_array_equal(
            arrays["rule_prefixes"][:entries, :length], batch.rules["rule_prefixes"]
        )
        assert not arrays["rule_lasts"][entries:].any(), "a spare rule may act"
        assert not arrays["rule_prefixes"][:, length:].any()


def test_what_changes_with_every_step_is_no_part_of_a_recipe() -> None:
    limits = GenerateLimits(8, LENGTH, 8, 2, 8)
    ladder, rules = generation_ladder("decode", limits, "cuda"), rules_signature(limits, VOCAB)
    plan = greedy(LENGTH, repetition_penalty=1.3)
    recipes = {
        Recipe.of(batch_of(one, 3, 8), 2, ladder, rules)
        for one in (plan, replace(plan, max_length=7), replace(plan, repetition_penalty=2.0))
    }
    assert len(recipes) == 1
