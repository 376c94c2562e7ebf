"""Load options, and defaults that depend on the artifact."""

from __future__ import annotations

import os

import pytest

import precast
from precast.artifacts.build_info import CudaInfo
from precast.artifacts.errors import ManifestError
from precast.artifacts.manifest import EncodeManifest
from precast.graphs.buckets import Buckets
from precast.graphs.encode import TOKENS, EncodeLimits, encode_output, encode_signature
from precast.graphs.graph_names import GraphName
from precast.runtime.errors import OptionError
from precast.runtime.graph_checks import check_encode_graph
from precast.runtime.options import LoadOptions
from tests.support.artifacts import TinyModels, example_manifest

LIMITS = EncodeLimits(8, 32, 4)
"""The buckets of the example."""


def for_cuda(buckets: Buckets | None = None) -> EncodeManifest:
    """Return the example manifest as if it had been compiled for an H100."""
    manifest = example_manifest()
    signature = encode_signature(
        LIMITS, encode_output("hidden", 16), device="cuda", token_types=True, prompt_lengths=False
    )
    graph = manifest.graphs[GraphName.ENCODE].model_copy(
        update={"signature": signature, "buckets": buckets or LIMITS.buckets("cuda")}
    )
    cuda = CudaInfo(release="13.0", compute_capability=(9, 0))
    build = manifest.build.model_copy(update={"device": "cuda", "backend": "inductor", "cuda": cuda})
    return manifest.model_copy(update={"build": build, "graphs": {"encode": graph}})


@pytest.mark.parametrize(
    ("option", "expected"),
    [(None, "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:17", "cuda:17")],
)
def test_the_device_of_a_cuda_artifact(option: str | None, expected: str) -> None:
    options = LoadOptions(device=option)
    assert options.device_for(for_cuda()) == expected == f"cuda:{options.device_index()}"


def test_an_artifact_runs_on_the_device_that_it_was_built_for() -> None:
    with pytest.raises(OptionError, match="built for cuda, device is 'cpu'"):
        LoadOptions(device="cpu").check_for(for_cuda())
    with pytest.raises(OptionError, match="built for cpu, device is 'cuda:1'"):
        LoadOptions(device="cuda:1").check_for(example_manifest())
    assert LoadOptions(device="cpu").device_for(example_manifest()) == "cpu"
    assert LoadOptions().device_for(example_manifest()) == "cpu"


def test_tokens_of_a_batch() -> None:
    """On CUDA the default is the largest bucket; an option is limited only by the artifact."""
    low = for_cuda(Buckets(TOKENS, (8, 16)))
    assert LoadOptions().batch_tokens_for(low) == 16
    assert LoadOptions(batch_tokens=20).batch_tokens_for(low) == 20
    assert LoadOptions(batch_tokens=1000).batch_tokens_for(low) == low.limits.max_tokens == 32
    assert LoadOptions().batch_tokens_for(example_manifest()) == 32


def test_only_on_cuda_buckets_may_end_below_the_limits() -> None:
    check_encode_graph(for_cuda())
    check_encode_graph(for_cuda(Buckets(TOKENS, (8, 16))))
    for buckets in (Buckets(TOKENS, (8, 64)), Buckets("sequences", (2, 4))):
        with pytest.raises(ManifestError, match="the buckets of graph encode end at"):
            check_encode_graph(for_cuda(buckets))
    manifest = example_manifest()
    short = manifest.graphs[GraphName.ENCODE].model_copy(update={"buckets": Buckets(TOKENS, (8, 16))})
    with pytest.raises(ManifestError, match="the buckets of graph encode end at 16 tokens, its limits at 32"):
        check_encode_graph(manifest.model_copy(update={"graphs": {"encode": short}}))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores can be set on Linux only")
def test_an_engine_stays_on_its_cores(tiny: TinyModels) -> None:
    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    with precast.load(tiny["hidden"].artifact, cores=[core]) as engine:
        thread = engine._core.thread
        assert thread.native_id is not None and os.sched_getaffinity(thread.native_id) == {core}
        assert len(engine.encode([[5, 6, 7]])) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("cores", [[], [0, 0], [1 << 20], [-1]])
def test_invalid_cores(cores: list[int]) -> None:
    with pytest.raises(OptionError, match="cores must be distinct numbers among"):
        LoadOptions(cores=tuple(cores))
