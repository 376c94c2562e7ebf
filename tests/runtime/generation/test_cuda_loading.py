"""A CUDA artifact from its files to outputs on the fake device, and the size of its KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import precast
from precast.artifacts.manifest import GenerateManifest, Manifest
from precast.artifacts.reader import read_manifest
from precast.compiler.buckets.profile import opened_encode_source, profile_graph
from precast.graphs.generation import generation_buckets, generation_signatures
from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import open_graphs
from precast.runtime.errors import DeviceFailedError, OptionError
from precast.runtime.generation import setup as generation_setup
from precast.runtime.generation.cuda.memory import Room
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.kv_cache import BLOCK_SIZE, slot_bytes
from precast.runtime.options import LoadOptions
from precast.runtime.replay import Graph
from tests.support.fake_device import TOTAL_BYTES, FakeDevice
from tests.support.fake_generation import WRONG, FakeGraph
from tests.support.generating import Generating, t5

TEXTS = ["the cat sat", "l'été où être naïve", "dogs weren't barking at night !"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Generating:
    return t5(tmp_path_factory.mktemp("t5"))


def for_cuda(manifest: Manifest) -> GenerateManifest:
    """Return the manifest that compiling for CUDA would have written."""
    assert isinstance(manifest, GenerateManifest)
    info, limits = manifest.output, manifest.limits
    signatures = generation_signatures(
        limits, info.self_kv, info.cross_kv, hidden_size=info.size, vocab_size=info.vocab_size,
        device="cuda",
    )  # fmt: skip
    graphs = {
        name: graph.model_copy(
            update={"signature": signatures[name], "buckets": generation_buckets(name, limits, "cuda")}
        )
        for name, graph in manifest.graphs.items()
    }
    build = manifest.build.model_copy(update={"device": "cuda"})
    return manifest.model_copy(update={"graphs": graphs, "build": build})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    """Replaces the CUDA device, with the artifact's own graphs as its kernels."""
    fake = FakeDevice(4)

    def opened(folder: Path, manifest: Manifest, name: str) -> Mapping[GraphName, Graph]:
        programs = open_graphs(folder, read_manifest(folder))
        if name == "cpu":
            return programs
        assert name == "cuda:0"
        return {
            key: FakeGraph(fake, manifest.graphs[key].signature, graph) for key, graph in programs.items()
        }

    monkeypatch.setattr(generation_setup, "open_graphs", opened)
    monkeypatch.setattr(generation_setup, "CudaDevice", lambda index: fake)
    yield fake
    assert fake.violations == []


def load(artifact: Path, device: FakeDevice, **generation: Any) -> Seq2Seq:
    manifest = for_cuda(read_manifest(artifact))
    engine = Seq2Seq.open(artifact, manifest, LoadOptions(**generation))
    stepper: Any = engine._core._loop.stepper
    for tensor in stepper.kv_cache.values():
        device.fill(tensor, WRONG)
    return engine


def test_outputs_are_those_of_a_cpu(made: Generating, device: FakeDevice) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
        {"do_sample": True, "seed": 3, "top_k": 5},
    ]
    with precast.Seq2Seq.load(made.artifact) as expected, load(made.artifact, device) as engine:
        captured = engine.stats().captures
        assert captured and engine.stats().capture_seconds > 0
        for given in options:
            for one, other in zip(
                engine.generate(TEXTS, **given), expected.generate(TEXTS, **given), strict=True
            ):
                assert [found.text for found in one.sequences] == [found.text for found in other.sequences]
        pieces = list(engine.stream(TEXTS[0], eos_token_id=[]))
        assert "".join(pieces) == expected.generate(TEXTS[0], eos_token_id=[]).sequences[0].text
        assert engine.stats().captures[: len(captured)] == captured


def test_the_kv_cache_fills_the_memory_that_is_left(made: Generating, device: FakeDevice) -> None:
    """The default KV cache fits all sequences at their longest, within the memory that is left."""
    manifest = read_manifest(made.artifact)
    assert isinstance(manifest, GenerateManifest)
    info, limits = manifest.output, manifest.limits
    blocks = -(-limits.max_target_length // BLOCK_SIZE) + -(-limits.max_source_length // BLOCK_SIZE)
    block = BLOCK_SIZE * slot_bytes(info.self_kv)
    longest, spare = limits.max_num_seqs * blocks * block, 2 * block
    with load(made.artifact, device) as engine:
        roomy = engine.stats()
        assert roomy.kv_cache_bytes == longest + spare
        used = device.used_bytes()
    with load(made.artifact, device, gpu_memory_utilization=(used - longest // 2) / TOTAL_BYTES) as engine:
        tight = engine.stats()
        assert tight.kv_cache_bytes < roomy.kv_cache_bytes
        assert engine.generate(TEXTS[0]).sequences[0].text is not None
    with load(made.artifact, device, kv_cache_bytes=longest // 4) as engine:
        assert engine.stats().kv_cache_bytes <= longest // 4 + spare


def test_too_little_memory_is_an_error_with_the_numbers(made: Generating, device: FakeDevice) -> None:
    with pytest.raises(OptionError, match="gpu_memory_utilization 0.0001 of 1073741824 bytes leaves nothing"):
        load(made.artifact, device, gpu_memory_utilization=0.0001)
    with pytest.raises(OptionError, match="one request of 28 target and 32 source tokens needs"):
        load(made.artifact, device, kv_cache_bytes=4096)


def test_a_device_that_fails_while_it_is_loaded(made: Generating, device: FakeDevice) -> None:
    device.fail_next()
    with pytest.raises(DeviceFailedError, match="the device failed while its memory was measured"):
        load(made.artifact, device)


def test_sources_are_measured_at_captured_buckets(made: Generating, device: FakeDevice) -> None:
    manifest = for_cuda(read_manifest(made.artifact))
    found = profile_graph(made.artifact, manifest, GraphName.ENCODE_SOURCE, 10, opened_encode_source)
    assert (
        len(found.seconds) == len(manifest.graphs[GraphName.ENCODE_SOURCE].buckets.sizes)
        and min(found.seconds) > 0
    )
    assert found.upto == manifest.limits.max_tokens and device.live_blocks() == 0


@pytest.mark.parametrize(("free", "left"), [(900, 500), (401, 1)])
def test_room(free: int, left: int) -> None:
    assert Room(total=1000, free=free, workspace=300).for_kv_cache(0.9) == left


def test_an_option_for_cuda_out_of_range() -> None:
    for value in (0.0, 1.0, 2, "much"):
        with pytest.raises(OptionError, match="gpu_memory_utilization must be between 0 and 1"):
            LoadOptions(gpu_memory_utilization=value)  # type: ignore[arg-type]
