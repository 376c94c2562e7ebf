"""Profiling the buckets of an artifact, and fitting them to a workload."""

from __future__ import annotations

import numpy as np

from precast.compiler.buckets.fit import Cost, expected_cost, fit_buckets
from precast.compiler.buckets.profile import EXAMPLE_LENGTH, Profile, profile_graph
from precast.compiler.buckets.workload import Batching, Workload, batch_sizes
from precast.compiler.graph import GraphSpec
from precast.compiler.manifest import BucketSelection, Draft
from precast.graphs.buckets import Buckets
from precast.graphs.costs import Costs
from precast.graphs.encode import TOKENS
from precast.graphs.graph_names import GraphName

CALL_TOKENS = 256
"""Constant part of a batch's cost, in tokens, if nothing was measured: launches, and reading the weights."""


def select_buckets(draft: Draft, workload: Workload | None) -> BucketSelection:
    """Profile the graph that is bucketed by tokens; with a workload, fit its buckets and profile them again.

    The other graphs have few sizes and keep their buckets.
    """
    spec = next(graph.spec for graph in draft.graphs if graph.spec.buckets.axis == TOKENS)
    selection = BucketSelection()
    profile = _profile(draft, spec.name, selection, workload)
    if workload is not None:
        fitted, note = _fit(draft, spec, workload, profile)
        selection = BucketSelection(buckets={spec.name: fitted}, notes=(note,))
        profile = _profile(draft, spec.name, selection, workload)
    if profile is None:
        return selection
    top, notes = selection.buckets.get(spec.name, spec.buckets).top, selection.notes
    if profile.upto < top:
        notes += (f"costs of {spec.name} above {profile.upto} tokens are extrapolated, not measured",)
    return BucketSelection(selection.buckets, {spec.name: profile.seconds}, notes)


def can_profile(draft: Draft) -> bool:
    """Return whether to measure costs on this machine.

    They would not apply to a portable artifact, and an artifact that is not verified may not run here.
    """
    return draft.options.verify and not draft.target.portable


def _profile(
    draft: Draft, name: GraphName, selection: BucketSelection, workload: Workload | None
) -> Profile | None:
    if not can_profile(draft):
        return None
    length = EXAMPLE_LENGTH
    if workload is not None:
        length = round(workload.mean_length(draft.model.limits.max_input_length))
    manifest = draft.manifest(selection)
    return profile_graph(draft.folder, manifest, name, length, draft.task.open_profiled)


def _fit(draft: Draft, spec: GraphSpec, workload: Workload, profile: Profile | None) -> tuple[Buckets, str]:
    """Return the fitted buckets of a graph, and a note on what they are worth."""
    default = spec.buckets
    demand = batch_sizes(workload, _batching(draft, default.top))
    cost: Cost = _modelled if profile is None else Costs(default.sizes, profile.seconds).at
    most = draft.options.max_buckets or len(default.sizes)
    buckets = fit_buckets(default.axis, demand, cost, most, default.top)
    share = expected_cost(buckets, demand, cost) / expected_cost(default, demand, cost)
    basis = "modelled" if profile is None else "measured"
    return buckets, (
        f"the buckets of {spec.name} are fitted to the workload: {len(buckets.sizes)} buckets with "
        f"{share:.0%} of the {basis} cost of the {len(default.sizes)} default buckets"
    )


def _batching(draft: Draft, top: int) -> Batching:
    """How an engine with default options makes batches."""
    limits = draft.model.limits
    budget = draft.task.default_batch_tokens(draft.model, draft.target)
    return Batching(limits.max_input_length, limits.max_batch, min(budget, top), top)


def _modelled(sizes: np.ndarray) -> np.ndarray:
    return sizes + CALL_TOKENS
