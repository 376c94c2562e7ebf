"""Compiled graphs release their memory: it grows neither with calls nor with loads."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import torch

import precast
from precast.artifacts.reader import read_manifest
from precast.artifacts.weights import read_weights
from precast.graphs.graph_names import GraphName
from precast.runtime.backends.inductor import InductorGraph
from precast.runtime.replay import Replay

RUNS = 3000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_outputs_are_not_kept(compiled: Path) -> None:
    engine = precast.Encoder.load(compiled)
    batch = [list(range(5, 35))] * 4
    replay: Replay = engine._core._replay
    engine.encode(batch)
    sizes = {"tokens": 120, "sequences": 4, "length": 30}
    buffers = replay.buffers_for(sizes)
    size = sum(tensor.nbytes for tensor in replay.launch(buffers).result())
    before = resident_bytes()
    for _ in range(RUNS):
        replay.launch(buffers)
    grown = resident_bytes() - before
    engine.close()
    assert grown < RUNS * max(size, 4096) / 4, f"{RUNS} runs kept {grown} bytes"


def test_weights_are_let_go_with_the_graph(compiled: Path) -> None:
    manifest = read_manifest(compiled)
    graph = manifest.graphs[GraphName.ENCODE]
    arrays = {n: t.numpy().copy() for n, t in read_weights(compiled / "weights.safetensors").items()}
    watched = [weakref.ref(array) for array in arrays.values()]
    weights = {name: torch.from_numpy(arrays[name]) for name in graph.constants}
    file = graph.variants[0].file
    loaded = InductorGraph(compiled / file, graph.signature, weights, manifest.files[file].sha256)
    del arrays, weights
    gc.collect()
    assert all(watch() is not None for watch in watched), "the graph must keep its weights alive"
    inputs = {
        "input_ids": torch.tensor([5, 6], dtype=torch.int32),
        "token_type_ids": torch.zeros(2, dtype=torch.int32),
        "cu_seqlens": torch.tensor([0, 2, 2], dtype=torch.int32),
        "key_positions": torch.arange(2, dtype=torch.int32),
    }
    assert np.isfinite(loaded(inputs)[0].numpy()).all()
    del loaded
    gc.collect()
    assert not any(watch() is not None for watch in watched)
