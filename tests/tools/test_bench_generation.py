"""The generation benchmark: contenders generate the same tokens, and requests are served as they arrive."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from precast.tools.bench import generation, generation_tables, ragged
from precast.tools.bench.generation_load import STEPS_PER_SYNC
from precast.tools.bench.generation_models import TINY_SHAPES, Shape, write_checkpoint
from precast.tools.bench.peers.ctranslate2_model import convert
from precast.tools.bench.peers.ctranslate2_peer import CTranslate2Generating
from precast.tools.bench.peers.hugging_face import HuggingFaceGenerating
from precast.tools.bench.peers.jobs import Job, agreement
from precast.tools.bench.precision import PRECISIONS
from precast.tools.bench.ragged import Load, Request, percentile, poisson, random_requests
from precast.tools.bench.readme import TABLES

TINY = replace(
    generation.QUICK,
    batches=(2,),
    source_length=7,
    new_tokens=6,
    load_requests=5,
    threads=1,
    rest=0.0,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of all contenders on one tiny model, and of the mixed-length requests."""
    settings = replace(TINY, shapes=TINY_SHAPES[:1])
    content = generation.run(settings, tmp_path_factory.mktemp("models"))
    parsed: dict[str, Any] = json.loads(json.dumps(content))
    return parsed


def test_there_is_one_row_for_every_contender_and_number_of_beams(result: dict[str, Any]) -> None:
    names = {(row["contender"], row["beams"]) for row in result["rows"]}
    contenders = (*(f"precast {name}" for name in PRECISIONS), *generation.RATIOS.values())
    assert names == {(name, beams) for name in contenders for beams in (1, 4)}
    assert len(result["rows"]) == len(names)


def test_contenders_in_fp32_generate_the_same_tokens(result: dict[str, Any]) -> None:
    greedy = {row["contender"]: row["token_agreement"] for row in result["rows"] if row["beams"] == 1}
    assert {name: share for name, share in greedy.items() if name.endswith("fp32")} == dict.fromkeys(
        ("precast fp32", "HF generate fp32", "CTranslate2 fp32"), 1.0
    )


def test_throughput_and_speedups_follow_from_the_medians(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        by_name = {
            one["contender"]: one["median_s"] for one in result["rows"] if one["beams"] == row["beams"]
        }
        assert row["tokens_per_s"] == pytest.approx(2 * 6 / row["median_s"], rel=0.05)
        for ratio, other in generation.RATIOS.items():
            assert row[ratio] == pytest.approx(by_name[other] / row["median_s"], rel=0.1, abs=0.02)


def test_every_way_of_batching_is_measured_with_both_arrival_patterns(result: dict[str, Any]) -> None:
    load = result["load"]
    ways = [(row["arrival"], row["batching"]) for row in load["rows"]]
    assert ways == [
        (arrival, way)
        for arrival in ("simultaneous", "stream")
        for way in ("continuous batching", "static batches of 16", "static batches of 64")
    ]
    assert all(0 < row["p50_s"] <= row["p95_s"] and row["tokens_per_s"] > 0 for row in load["rows"])
    assert load["stream_requests_per_s"] == pytest.approx(0.7 * load["saturation_requests_per_s"], rel=0.02)


def test_every_steps_per_sync_is_measured(result: dict[str, Any]) -> None:
    rows = result["load"]["by_steps_per_sync"]
    assert [row["steps_per_sync"] for row in rows] == list(STEPS_PER_SYNC)
    assert all(0 < row["p50_s"] <= row["p95_s"] and row["tokens_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["generation", "generation_load"])
def test_a_table_has_a_row_for_each_artifact_and_rejects_a_quick_run(
    result: dict[str, Any], name: str
) -> None:
    data = {
        **result,
        "machine": {"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"]},
        "versions": {"torch": "2", "transformers": "5", "ctranslate2": "4"},
    }
    lines = TABLES[name].render({**data, "quick": False}).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    wanted = {"generation": 2 * len(PRECISIONS), "generation_load": 6}[name]
    assert len(rows) == wanted + 2 and len({line.count("|") for line in rows}) == 1
    assert TABLES[name].render({**data, "quick": True}) == generation_tables.UNMEASURED


@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.kind)
def test_ctranslate2_runs_the_same_model(shape: Shape, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(shape, tmp_path)
    converted = convert(checkpoint, tmp_path / "converted")
    sources = tuple(tuple(range(start, start + 9)) for start in range(3, 250, 25))
    job = Job(sources, 16, 1)
    theirs = HuggingFaceGenerating(checkpoint, torch.float32, 1).generate(job)
    ours = CTranslate2Generating(converted, "float32", 1).generate(job)
    assert all(len(target) == 16 for target in ours)
    assert len({tuple(target) for target in theirs}) > 1, "equal targets for all sources would prove nothing"
    assert ours == theirs


def test_agreement_is_the_share_of_equal_positions() -> None:
    assert agreement([[1, 2], [3, 4]], [[1, 2], [4, 3]]) == 0.5
    assert agreement([[1, 2]], [[1, 2, 3, 4]]) == 0.5


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(20, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile(values, 1.0)) == (10, 19, 20)
    assert percentile([3.0], 0.5) == 3


def test_a_stream_arrives_at_its_rate() -> None:
    times = poisson(20_000, 50.0)
    assert times[0] == 0 and list(times) == sorted(times)
    assert times[-1] / len(times) == pytest.approx(1 / 50, rel=0.05)


def test_random_requests_are_within_their_bounds() -> None:
    requests = random_requests(500, 100)
    assert {len(one.source) for one in requests} == set(range(5, 61))
    assert {one.new_tokens for one in requests} == set(range(8, 65))
    assert all(3 <= token < 99 for one in requests for token in one.source)
    assert requests == random_requests(500, 100)


def served(
    monkeypatch: pytest.MonkeyPatch, load: Load, work: Callable[[int], object]
) -> tuple[ragged.Served, int]:
    """Serve a load with a fake engine; return the figures and the highest number of running requests."""
    running, most = set[int](), [0]

    def one(index: int) -> Any:
        work(index)
        running.discard(index)
        return SimpleNamespace(token_ids=np.zeros(3, np.int32))

    with ThreadPoolExecutor(16) as pool:

        def submit(source: list[int], **options: Any) -> Future[Any]:
            running.add(source[0])
            most[0] = max(most[0], len(running))
            return pool.submit(one, source[0])

        engine = SimpleNamespace(submit=submit)
        monkeypatch.setattr(ragged.precast.Seq2Seq, "load", lambda *given, **options: engine)
        return ragged.server(Path("none"), 1)(load), most[0]


@pytest.mark.parametrize(("group", "most"), [(3, 3), (None, 6)])
def test_a_static_batch_ends_before_the_next_one_starts(
    monkeypatch: pytest.MonkeyPatch, group: int | None, most: int
) -> None:
    gate = threading.Barrier(most)  # no request ends before that many are running
    requests = tuple(Request((index,), 2) for index in range(6))
    load = Load(requests, (0.0,) * 6, group)
    figures, max_running = served(monkeypatch, load, lambda index: gate.wait(timeout=20))
    assert max_running == most and figures.tokens == 12


def test_a_latency_counts_from_the_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = (Request((0,), 2), Request((1,), 2))
    found, _ = served(monkeypatch, Load(requests, (0.0, 0.4), None), lambda index: None)
    assert found.seconds >= 0.4
    assert all(0 <= latency < 0.3 for latency in found.latencies)


def test_a_request_that_waits_for_the_previous_batch_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = (Request((0,), 2), Request((1,), 2))
    figures, max_running = served(monkeypatch, Load(requests, (0.0, 0.1), 2), lambda index: time.sleep(0.3))
    assert max_running == 1  # the second request arrived after the first batch had started
    assert figures.latencies[1] >= 0.45
