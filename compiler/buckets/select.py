"""The step that measures graph_buckets, and fits them to workload."""

from __future__ import annotations

import numpy as np

from precast.compiler.buckets.fit import Cost, expected_cost, fit_buckets
from precast.compiler.buckets.profile import EXAMPLE_LENGTH, measure_graph
from precast.compiler.buckets.workload import Batching, Workload, batch_sizes
from precast.compiler.manifest import describe_graphs
from precast.compiler.tasks.encode import GraphPlan
from precast.compiler.work import Work
from precast.graphs.costs import Costs
from precast.graphs.encode import BATCH_TOKENS, TOKENS
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import SOURCE_BATCH_TOKENS

CALL_TOKENS = 256
"""Where nothing was measured, a batch costs what its tokens cost and so many more: launches, and weights that
are read whatever a batch holds."""


def select_buckets(work: Work) -> None:
    """Measure what batches cost; where workload was given, fit the buckets of tokens to it and measure again.

    The other graphs have few sizes, and their graph_buckets stay.
    """
    for graph in work.plan.graphs:
        if graph.buckets.axis != TOKENS:
            continue
        upto = _measure(work, graph.name)
        if work.workload is not None:
            _fit(work, graph, work.workload)
            upto = _measure(work, graph.name)
        if upto is not None and upto < graph.buckets.top:
            work.notes.append(f"costs of {graph.name} above {upto} tokens are in proportion, not measured")


def _measure(work: Work, name: GraphName) -> int | None:
    """Put the costs of a graph's buckets into the manifest; up to which size they were measured."""
    if not worth_measuring(work):
        return None
    length = EXAMPLE_LENGTH
    if work.workload is not None:
        length = round(work.workload.mean_length(_max_length(work)))
    measured = measure_graph(work.folder, work.manifest, name, length)
    work.costs[name] = measured.seconds
    work.manifest = work.manifest.model_copy(update={"graphs": describe_graphs(work)})
    return measured.upto


def worth_measuring(work: Work) -> bool:
    """Whether what a graph takes here says something.

    A portable graph runs on any machine, so that this one's times say nothing; and one that is not verified
    may not run here at all.
    """
    return work.options.verify and work.backend.name != "reference"


def _fit(work: Work, graph: GraphPlan, workload: Workload) -> None:
    """Put the fitted buckets of a graph into the manifest, without costs."""
    usual = graph.buckets
    demand = batch_sizes(workload, _batching(work, usual.top))
    seconds = work.costs.pop(graph.name, None)
    cost: Cost = _modelled if seconds is None else Costs(usual.sizes, seconds).at
    buckets = fit_buckets(usual.axis, demand, cost, work.options.graphs or len(usual.sizes), usual.top)
    share = expected_cost(buckets, demand, cost) / expected_cost(usual, demand, cost)
    work.notes.append(
        f"the buckets of {graph.name} is fitted to workload: {len(buckets.sizes)} buckets, {share:.0%} of the "
        f"{'measured' if seconds else 'modelled'} cost of the usual {len(usual.sizes)}"
    )
    work.graph_buckets[graph.name] = buckets
    work.manifest = work.manifest.model_copy(update={"graphs": describe_graphs(work)})


def _batching(work: Work, top: int) -> Batching:
    """How an engine with its default options makes batches."""
    longest = _max_length(work)
    if work.task == "generate":
        budget = max(SOURCE_BATCH_TOKENS, longest)
    else:
        budget = top if work.options.device_kind == "cuda" else BATCH_TOKENS
    return Batching(longest, work.plan.limits.max_batch, min(budget, top), top)


def _max_length(work: Work) -> int:
    return work.plan.limits.max_input_length


def _modelled(sizes: np.ndarray) -> np.ndarray:
    return sizes + CALL_TOKENS
