"""Batch descriptors, and the inputs that a batch is written into."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.generation import generation_buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.cuda.layout import Layout
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.batch_descriptor import BatchDescriptor
from precast.runtime.generation.cuda.memory import example_batches
from precast.runtime.generation.request import Reservation
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.token_bias import TokenBias
from tests.support.generation import request
from tests.support.random_requests import VOCAB, beams, greedy, samples

LENGTH = 12


@st.composite
def plans(draw: st.DrawFn, most_rows: int) -> SamplingParams:
    """Return parameters of every mode, with token biases whose prefixes have different lengths."""
    token_biases = tuple(
        TokenBias(2 + at, -1.0, prefix=tuple(range(2, 2 + length)))
        for at, length in enumerate(draw(st.lists(st.integers(0, 5), max_size=5)))
    )
    rows = draw(st.integers(1, min(5, most_rows)))
    mode = draw(st.sampled_from(["greedy", "multinomial", "beam"] if rows > 1 else ["greedy", "multinomial"]))
    if mode == "beam":
        return beams(rows, LENGTH, token_biases=token_biases)
    if mode == "multinomial":
        return samples(rows, 3, LENGTH, token_biases=token_biases, top_k=draw(st.integers(0, 9)))
    return greedy(LENGTH, token_biases=token_biases, no_repeat_ngram_size=draw(st.integers(0, 6)))


def batch_of(plan: SamplingParams, count: int, max_num_seqs: int) -> ActiveBatch:
    rows = np.arange(count * plan.num_seqs).reshape(count, plan.num_seqs).tolist()
    active = tuple(replace(request([5, 6], plan), reservation=Reservation(tuple(some))) for some in rows)
    return ActiveBatch(active, VOCAB, max_num_seqs)


@given(data=st.data(), max_num_seqs=st.integers(1, 70), steps=st.integers(1, 4))
def test_any_number_of_requests_of_one_kind_meets_a_captured_graph(
    data: st.DataObject, max_num_seqs: int, steps: int
) -> None:
    limits = GenerateLimits(8, LENGTH, 8, 2, max_num_seqs)
    buckets = generation_buckets(GraphName.DECODE, limits, "cuda")
    plan = data.draw(plans(max_num_seqs))
    made = request([0], plan)
    captured = {
        BatchDescriptor.of(batch, n, buckets, limits)
        for batch, n in example_batches(made, VOCAB, buckets, steps)
    }
    count = data.draw(st.integers(1, max_num_seqs // plan.num_seqs))
    descriptor = BatchDescriptor.of(batch_of(plan, count, max_num_seqs), steps, buckets, limits)
    assert descriptor in captured
    assert len(captured) <= 2 * len(buckets.sizes)


@given(data=st.data(), max_num_seqs=st.integers(1, 40))
def test_writing_a_batch_overwrites_the_previous_one(data: st.DataObject, max_num_seqs: int) -> None:
    limits = GenerateLimits(8, LENGTH, 8, 2, max_num_seqs)
    buckets = generation_buckets(GraphName.DECODE, limits, "cuda")
    plan = data.draw(plans(max_num_seqs))
    batch = batch_of(plan, data.draw(st.integers(1, max_num_seqs // plan.num_seqs)), max_num_seqs)
    descriptor = BatchDescriptor.of(batch, 1, buckets, limits)
    layout = Layout.of(descriptor.buffers(), {})
    arrays = layout.arrays(torch.full((layout.nbytes,), 77, dtype=torch.uint8))
    descriptor.write(batch, arrays)
    count = len(batch.seq_ids)
    assert descriptor.num_seqs >= count
    np.testing.assert_array_equal(arrays["seq_ids"][:count], batch.seq_ids)
    assert (arrays["seq_ids"][count:] == batch.seq_ids[-1]).all()
    (group,) = batch.sample_groups
    for name in ("seq_ids", "logits_indices"):
        found, wanted = arrays[f"{name}_0"], group.buffers[name].numpy()
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert (found[len(wanted) :] == wanted[-1]).all()
    if batch.token_biases is not None:
        entries, length = batch.token_biases["bias_prefixes"].shape
        np.testing.assert_array_equal(
            arrays["bias_prefixes"][:entries, :length], batch.token_biases["bias_prefixes"]
        )
        assert not arrays["bias_lasts"][entries:].any(), "a spare bias may act"
        assert not arrays["bias_prefixes"][:, length:].any()


def test_values_in_the_state_are_no_part_of_a_descriptor() -> None:
    limits = GenerateLimits(8, LENGTH, 8, 2, 8)
    buckets = generation_buckets(GraphName.DECODE, limits, "cuda")
    plan = greedy(LENGTH, repetition_penalty=1.3)
    descriptors = {
        BatchDescriptor.of(batch_of(one, 3, 8), 2, buckets, limits)
        for one in (plan, replace(plan, max_length=7), replace(plan, values={"repetition_penalty": 2.0}))
    }
    assert len(descriptors) == 1
