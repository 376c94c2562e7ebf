"""Buckets in artifacts: fitted to a workload, profiled if the artifact is bound to this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import precast
from precast.artifacts.manifest import EmbedInfo, EncodeManifest, Manifest
from precast.artifacts.reader import read_manifest
from precast.compiler.buckets import select as graph_buckets
from precast.compiler.buckets.fit import fit_buckets
from precast.compiler.buckets.profile import Profile, opened_encode, profile_graph
from precast.compiler.buckets.select import CALL_TOKENS
from precast.compiler.buckets.workload import Batching, batch_sizes, parse_workload
from precast.compiler.errors import CompileError, WorkloadError
from precast.graphs.costs import Costs
from precast.graphs.encode import BATCH_TOKENS, encode_signature
from precast.graphs.generation import generation_buckets
from precast.graphs.graph_names import GraphName
from precast.runtime import Encoder
from precast.runtime.backends import graph_loader
from precast.runtime.backends.graph_loader import open_graph
from precast.runtime.graph_checks import output_of
from precast.runtime.load import start_engine
from precast.runtime.replay import Graph
from tests.support.artifacts import MAX_BATCH, MAX_LENGTH, MAX_TOKENS, TinyModels, tiny_artifact
from tests.support.fake_device import FakeDevice
from tests.support.random_requests import write_t5

INPUTS = [[5] * length for length in (1, 3, 31, 7, 7, 20, 12)]
LENGTHS = {"lengths": {"3": 30, "9": 5, "27": 8, "500": 1}, "concurrency": {"1": 5, "4": 2}}


def written(folder: Path, content: Any) -> Path:
    path = folder / "lengths.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_an_artifact_has_the_best_buckets_for_its_workload(tiny: TinyModels, tmp_path: Path) -> None:
    workload = written(tmp_path, LENGTHS)
    artifact = tiny_artifact(tiny["embed"].checkpoint, tmp_path / "a", workload=workload, max_buckets=3)
    manifest, usual = read_manifest(artifact), read_manifest(tiny["embed"].artifact)
    graph = manifest.graphs[GraphName.ENCODE]
    demand = batch_sizes(parse_workload(LENGTHS), Batching(MAX_LENGTH, MAX_BATCH, MAX_TOKENS, MAX_TOKENS))
    assert graph.buckets == fit_buckets("tokens", demand, lambda sizes: sizes + CALL_TOKENS, 3, MAX_TOKENS)
    assert len(graph.buckets.sizes) == 3 and graph.buckets != usual.graphs[GraphName.ENCODE].buckets
    assert graph.costs is None, "costs measured here do not apply to other machines"
    (note,) = [note for note in manifest.notes if "workload" in note]
    assert "buckets of encode are fitted to the workload: 3 buckets" in note
    assert "modelled cost of the 4 default buckets" in note
    with precast.Encoder.load(artifact) as engine, precast.Encoder.load(tiny["embed"].artifact) as other:
        np.testing.assert_allclose(engine.embed(INPUTS), other.embed(INPUTS), atol=1e-5)


def test_fitted_buckets_are_as_many_as_the_default_ones(tiny: TinyModels, tmp_path: Path) -> None:
    workload = written(tmp_path, list(range(1, 33)))
    manifest = read_manifest(tiny_artifact(tiny["embed"].checkpoint, tmp_path / "a", workload=workload))
    assert len(manifest.graphs[GraphName.ENCODE].buckets.sizes) == 4
    flat = tiny_artifact(tiny["embed"].checkpoint, tmp_path / "b", workload=workload, max_buckets=1)
    assert read_manifest(flat).graphs[GraphName.ENCODE].buckets.sizes == (MAX_TOKENS,)
    with precast.Encoder.load(flat) as engine:
        assert engine.embed(INPUTS).shape == (len(INPUTS), 16)


def test_buckets_are_fitted_to_measured_costs_and_measured_again(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With these costs only batches of up to 32 tokens deserve buckets of their own."""
    seconds = {16: 1.0, 32: 1.1, 64: 8.0, 128: 8.0}
    profiled: list[tuple[tuple[int, ...], int]] = []

    def fake_profile(
        folder: Path, manifest: Manifest, name: GraphName, length: int, open_graph: object
    ) -> Profile:
        assert name == "encode" and folder.is_dir()
        buckets = manifest.graphs[name].buckets.sizes
        profiled.append((buckets, length))
        costs = Costs(tuple(seconds), tuple(seconds.values())).at(np.array(buckets))
        return Profile(tuple(costs.tolist()), 64)

    monkeypatch.setattr(graph_buckets, "profile_graph", fake_profile)
    monkeypatch.setattr(graph_buckets, "can_profile", lambda draft: True)
    workload = written(tmp_path, {"lengths": {"20": 1}, "concurrency": {"1": 1, "3": 1}})
    manifest = read_manifest(tiny_artifact(tiny["embed"].checkpoint, tmp_path / "a", workload=workload))
    assert profiled == [((16, 32, 64, 128), 20), ((24, 128), 20)]
    graph = manifest.graphs[GraphName.ENCODE]
    assert graph.buckets.sizes == (24, 128) and graph.costs == pytest.approx((1.05, 8.0))
    assert any("measured cost of the 4 default buckets" in note for note in manifest.notes)
    assert any("costs of encode above 64 tokens are extrapolated" in note for note in manifest.notes)


def test_compiled_graphs_are_measured(compiled: Path, tiny: TinyModels, tmp_path: Path) -> None:
    usual = read_manifest(compiled).graphs[GraphName.ENCODE]
    assert usual.costs is not None and len(usual.costs) == len(usual.buckets.sizes)
    options: dict[str, Any] = {"backend": "inductor", "prepack": False}
    checkpoint, workload = tiny["classify"].checkpoint, written(tmp_path, LENGTHS)
    fitted = read_manifest(
        tiny_artifact(checkpoint, tmp_path / "a", workload=workload, max_buckets=2, **options)
    ).graphs[GraphName.ENCODE]
    assert len(fitted.buckets.sizes) == 2 and fitted.buckets.top == usual.buckets.top
    assert fitted.costs is not None and len(fitted.costs) == 2
    assert fitted.variants == usual.variants, "buckets do not change the graph"
    with precast.Encoder.load(tmp_path / "a") as engine, precast.Encoder.load(compiled) as other:
        for one, theirs in zip(engine.encode(INPUTS), other.encode(INPUTS), strict=True):
            np.testing.assert_allclose(one.logits, theirs.logits, atol=1e-5)
    unverified = tiny_artifact(checkpoint, tmp_path / "b", verify=False, **options)
    assert read_manifest(unverified).graphs[GraphName.ENCODE].costs is None


def test_buckets_of_sources_are_fitted_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "backend": "reference", "verify": False, "max_length": 32, "max_target_length": 12,
        "max_tokens": 2048, "max_batch": 64, "max_num_seqs": 6,
    }  # fmt: skip
    workload = written(tmp_path, {"lengths": {"10": 1}, "concurrency": {"1": 1, "200": 1}})
    checkpoint = write_t5(tmp_path / "model")
    manifest = precast.compile(checkpoint, tmp_path / "a", workload=workload, **options)
    assert isinstance(manifest.limits, precast.graphs.seq2seq.GenerateLimits)
    # Batches of 1, of 64 and of the 8 that 200 leave; none is as large as an engine would encode.
    assert manifest.graphs[GraphName.ENCODE_SOURCE].buckets.sizes == (16, 80, 640, 2048)
    for name, graph in manifest.graphs.items():
        assert name == "encode_source" or graph.buckets == generation_buckets(name, manifest.limits, "cpu")
        assert graph.costs is None
    with precast.Seq2Seq.load(tmp_path / "a") as engine:
        assert len(engine.generate([[5, 6, 7]], max_new_tokens=3)[0].token_ids) > 0


def test_batches_are_those_of_an_engine_with_default_options(tiny: TinyModels, tmp_path: Path) -> None:
    """On a CPU batches have ``BATCH_TOKENS`` tokens, although the artifact supports more."""
    workload = written(tmp_path, {"lengths": [32], "concurrency": {"140": 1}})
    manifest = precast.compile(
        tiny["embed"].checkpoint, tmp_path / "a", workload=workload, backend="reference"
    )
    assert manifest.limits.max_tokens > 2 * BATCH_TOKENS and 2 * BATCH_TOKENS < 140 * 32
    rest = 140 * 32 % BATCH_TOKENS
    assert manifest.graphs[GraphName.ENCODE].buckets.sizes == (rest, BATCH_TOKENS, manifest.limits.max_tokens)


@pytest.mark.parametrize(
    ("content", "max_buckets", "error", "message"),
    [
        ([], None, WorkloadError, "lengths is empty"),
        ([1], 0, CompileError, "max_buckets must be positive, found 0"),
        (None, 4, CompileError, "max_buckets limits the buckets fitted to a workload"),
    ],
)
def test_invalid_workloads_are_refused(
    content: Any,
    max_buckets: int | None,
    error: type[CompileError],
    message: str,
    tiny: TinyModels,
    tmp_path: Path,
) -> None:
    workload = None if content is None else written(tmp_path, content)
    with pytest.raises(error, match=message):
        tiny_artifact(tiny["embed"].checkpoint, tmp_path / "a", workload=workload, max_buckets=max_buckets)
    assert not (tmp_path / "a").exists()
    with pytest.raises(WorkloadError, match="cannot be read"):
        tiny_artifact(tmp_path / "no checkpoint", tmp_path / "a", workload=tmp_path / "gone.json")


@dataclass(frozen=True)
class Kernel:
    """Runs the artifact's portable program as the fake device's only kernel."""

    device: FakeDevice
    program: Graph
    counts: bool
    """Whether the program takes ``key_positions``, which CUDA graphs do not."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        return self.device.kernel(self.compute, inputs, [(len(inputs["cu_seqlens"]) - 1, 16)])

    def compute(self, inputs: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> None:
        given = dict(inputs)
        if self.counts:
            longest = max(2, int(given["cu_seqlens"].diff().max()))
            given["key_positions"] = torch.arange(longest, dtype=torch.int32)
        (found,) = self.program(given)
        outputs[0].copy_(found)


def for_cuda(manifest: Manifest) -> Manifest:
    """Return the manifest that compiling for CUDA would have written."""
    graph, output = manifest.graphs[GraphName.ENCODE], manifest.output
    assert isinstance(manifest, EncodeManifest) and isinstance(output, EmbedInfo)
    signature = encode_signature(
        manifest.limits,
        output_of(manifest),
        device="cuda",
        token_types=True,
        prompt_lengths=not output.include_prompt,
    )
    graph = graph.model_copy(update={"signature": signature})
    build = manifest.build.model_copy(update={"device": "cuda"})
    return manifest.model_copy(update={"graphs": {"encode": graph}, "build": build})


def on_fake_device(folder: Path, device: FakeDevice, patch: pytest.MonkeyPatch) -> Encoder:
    """Load the artifact as if it had been compiled for CUDA."""
    manifest = read_manifest(folder)
    counts = any(
        buffer.name == "key_positions" for buffer in manifest.graphs[GraphName.ENCODE].signature.inputs
    )
    kernel = Kernel(device, open_graph(folder, manifest, GraphName.ENCODE), counts)
    patch.setattr(graph_loader, "CudaDevice", lambda index: device)
    patch.setattr(graph_loader, "_on_device", lambda weights, name: weights)
    patch.setattr(graph_loader, "_open_on_cuda", lambda *arguments: kernel)
    engine = start_engine(folder, for_cuda(manifest))
    assert isinstance(engine, Encoder)
    return engine


def test_captured_buckets_are_measured_largest_first(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, folder = FakeDevice(3), tiny["embed"].artifact
    on_fake_device(folder, device, monkeypatch).close()
    found = profile_graph(folder, for_cuda(read_manifest(folder)), GraphName.ENCODE, 8, opened_encode)
    assert found.upto == MAX_TOKENS and len(found.seconds) == 4 and min(found.seconds) > 0
    assert device.violations == [] and device.live_blocks() == 0


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.dictionaries(st.integers(1, 60), st.integers(1, 1000), min_size=1, max_size=8),
    concurrency=st.dictionaries(st.integers(1, 40), st.integers(1, 1000), min_size=1, max_size=4),
    max_buckets=st.integers(1, 6),
)
def test_exactly_the_fitted_buckets_are_captured(
    tiny: TinyModels, lengths: dict[int, int], concurrency: dict[int, int], max_buckets: int
) -> None:
    workload = {
        "lengths": {str(length): count for length, count in lengths.items()},
        "concurrency": {str(size): count for size, count in concurrency.items()},
    }
    device = FakeDevice(3)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        artifact = tiny_artifact(
            tiny["embed"].checkpoint, folder / "a", workload=written(folder, workload),
            max_buckets=max_buckets, verify=False,
        )  # fmt: skip
        buckets = read_manifest(artifact).graphs[GraphName.ENCODE].buckets
        assert 1 <= len(buckets.sizes) <= max_buckets and buckets.top == MAX_TOKENS
        with precast.Encoder.load(artifact) as expected, on_fake_device(artifact, device, patch) as engine:
            np.testing.assert_allclose(engine.embed(INPUTS), expected.embed(INPUTS), atol=1e-5)
            captured = [capture.bucket for capture in engine.stats().captures]
    assert captured == list(reversed(buckets.sizes))
    assert device.violations == []
