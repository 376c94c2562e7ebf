"""How close a decoder step comes to its lower bound, the time to read its weights.

It is measured with one source and greedy search, where memory bandwidth is the only limit. The table is in
``docs/performance.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import open_graphs
from precast.runtime.generation import setup as seq2seq_setup
from precast.runtime.replay import Graph
from precast.tools.bench.generation_models import MODELS, SHAPES, Shape, measured_sources, write_checkpoint
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.peers.jobs import Job, Targets
from precast.tools.bench.peers.precast_artifact import Generating
from precast.tools.bench.peers.work import Generate, Work, served
from precast.tools.bench.precision import Precision, compile_as
from precast.tools.bench.results import summary, write_result
from precast.tools.bench.sorting import TARGET_LENGTH

THREADS = 2
WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "int8": 1}


def bytes_per_step(shape: Shape, precision: Precision) -> int:
    """Return the bytes of the weights that a step reads once each.

    Each layer has four projections of self-attention, two of cross-attention (keys and values of a source are
    projected before the first step) and two of the feed-forward layer. The vocabulary projection comes last.
    """
    hidden = shape.hidden_size
    layer = 6 * hidden * hidden + 2 * hidden * shape.inner_size
    return (shape.layers * layer + shape.vocab_size * hidden) * WEIGHT_BYTES[precision]


class Reading:
    """An engine that reads a block of memory for each new token and generates nothing.

    Args:
        size: bytes to read.
        threads: number of reading threads.
    """

    def __init__(self, size: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._weights = torch.ones(size // 4)

    def generate(self, job: Job) -> Targets:
        """Read the memory ``job.new_tokens`` times; return no targets."""
        for _ in range(job.new_tokens):
            self._weights.sum()
        return []


class Step:
    """An engine that repeats the call of the ``decode`` graph for the last token of a job.

    The call can be repeated because it writes the same keys and values to the same slots.

    Args:
        artifact: directory of the artifact.
        threads: threads of its kernels.
    """

    def __init__(self, artifact: Path, threads: int) -> None:
        self._last, self._calls = 0, 0
        self._inputs: dict[str, Tensor] = {}
        with patch.object(seq2seq_setup, "open_graphs", self._opened):
            self._engine = Generating(artifact, threads)
        torch.set_num_threads(threads)

    def generate(self, job: Job) -> Targets:
        """Call the graph once for each token; the first job is generated completely to record the inputs."""
        if not self._inputs:
            self._last = job.new_tokens
            self._engine.generate(job)
        for _ in range(job.new_tokens):
            self._decode(self._inputs)
        return []

    def _opened(self, *given: Any) -> dict[GraphName, Graph]:
        graphs = open_graphs(*given)
        self._decode = graphs[GraphName.DECODE]
        return {**graphs, GraphName.DECODE: self._recorded}

    def _recorded(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        self._calls += 1
        if self._calls == self._last:
            # Later steps change the state, and slots of the KV cache are reused.
            self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        return self._decode(inputs)


def measure(
    shape: Shape,
    model: Path,
    folder: Path,
    rounds: int,
    backend: Literal["inductor", "reference"] = "inductor",
) -> list[dict[str, Any]]:
    """Return one row for each precision: milliseconds of a token, of a step, and of reading the weights."""
    engines: dict[str, Callable[[], Any]] = {}
    for precision in WEIGHT_BYTES:
        path = folder / f"{precision}.precast"
        compile_as(model, path, precision, backend)
        engines[f"{precision} token"] = partial(Generating, path, THREADS)
        engines[f"{precision} step"] = partial(Step, path, THREADS)
        engines[f"{precision} reading"] = partial(Reading, bytes_per_step(shape, precision), THREADS)
    makers = {name: partial(served, make, THREADS) for name, make in engines.items()}
    with InterleavedProcesses[Work, Targets](makers, rest=0.1) as processes:
        taken = processes.seconds(Generate(Job(measured_sources(shape, 1), TARGET_LENGTH, 1)), rounds)
    of_a_token = {name: summary([one / TARGET_LENGTH for one in found]) for name, found in taken.items()}
    return [
        {
            "model": shape.name,
            "precision": precision,
            "bytes": bytes_per_step(shape, precision),
            **{what: of_a_token[f"{precision} {what}"] for what in ("token", "step", "reading")},
        }
        for precision in WEIGHT_BYTES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/floor"))
    options = parser.parse_args()
    shape = SHAPES[0]
    rows = measure(shape, write_checkpoint(shape, MODELS), options.folder, options.rounds)
    path = write_result("floor", {"rounds": options.rounds, "threads": THREADS, "rows": rows})
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
