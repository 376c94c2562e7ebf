"""The real stages of the GPU check with tiny sizes on the CPU, and the errors that they must detect."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from precast.compiler.kernels.triton import decode_attention
from precast.compiler.kernels.triton import packed_attention as attention
from precast.compiler.kernels.triton.decode_attention import decode_self_attention
from precast.compiler.lowering.inductor_cuda import sizes
from precast.graphs.graph_names import GraphName
from precast.runtime.encoder.engine import Encoder
from precast.runtime.encoder.packing import fill
from precast.tools.gpucheck import generation_shapes
from precast.tools.gpucheck.cases.case import random_lengths
from precast.tools.gpucheck.cases.packed_attention import ranges
from precast.tools.gpucheck.clock import CudaClock, HostClock, clock_of
from precast.tools.gpucheck.engines import Stopwatch, timed
from precast.tools.gpucheck.stage import Report, Setting, Skip, Stage
from precast.tools.gpucheck.stages import (
    STAGES,
    cold_start,
    families,
    generation,
    generation_models,
    generation_profile,
    generation_speed,
    generation_start,
    kernels,
    latency,
    lower,
    packed,
    peers,
    profile,
    replay,
    sanitizer,
    saturated,
    strings,
    tile_kernels,
    tiles,
)
from precast.tools.gpucheck.stages import compile as compile_stage
from precast.tools.gpucheck.stages import machine as machine_stage
from tests.support.fake_device import FakeDevice, FakeStream
from tests.support.fake_encoder import fake_replay, random_tokens

KERNELS = Path(attention.__file__).parent


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Return a setting in which the stages that all others depend on have passed."""
    empty = Setting(tmp_path_factory.mktemp("gpucheck"), "cpu", tiny=True)
    machine = passed(machine_stage.STAGE, empty)["all"]
    before = replace(empty, earlier={"machine": machine.content})
    passed(lower.STAGE, before)
    compiled = passed(compile_stage.STAGE, before)
    assert [one.content["tuned"] for one in compiled.values()] == [True, True, False, False]
    return before


def passed(stage: Stage, setting: Setting, parts: tuple[str, ...] | None = None) -> dict[str, Report]:
    """Run every part of a stage, check that none fails, and return the reports."""
    reports = {part: stage.run(setting, part) for part in parts or stage.parts}
    assert [report.failures for report in reports.values()] == [[]] * len(reports)
    assert sum(report.checks for report in reports.values()) > 0
    return reports


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)


def test_every_stage_is_tested() -> None:
    """Each stage has a test below; this test checks that none is missing."""
    shown = {
        machine_stage, lower, compile_stage, kernels, sanitizer, families, peers, tile_kernels, replay,
        latency, strings, packed, saturated, cold_start, profile, tiles,
    }  # fmt: skip
    assert {stage.name for stage in STAGES} == {module.STAGE.name for module in shown}


def test_machine(setting: Setting) -> None:
    ceilings = setting.earlier["machine"]["ceilings"]
    assert ceilings["bytes_per_s"] > 0 and set(ceilings["flops_per_s"]) == {"bf16", "fp16"}


def test_each_tuned_graph_has_its_part() -> None:
    assert [part for part in lower.PARTS if part.startswith("tuned")] == [
        f"tuned-{at}" for at in range(len(sizes(autotune=True)[GraphName.ENCODE]))
    ]


def test_graphs_that_were_not_lowered_are_compiled_without_autotuning(
    setting: Setting, tmp_path: Path
) -> None:
    report = compile_stage.STAGE.run(replace(setting, work=tmp_path), "classify-bf16")
    assert not report.failures and report.content["tuned"] is False


def test_replay(setting: Setting) -> None:
    content = passed(replay.STAGE, setting)["all"].content
    assert content["batches"] > 3 and content["worst_relative_difference"] < 0.02


def test_replay_detects_a_wrong_output(setting: Setting) -> None:
    class Wrong:
        def embed(self, batch: list[Any]) -> np.ndarray:
            return np.ones((len(batch), 4), np.float32) + np.arange(len(batch))[:, None] / 10

    class Right(Wrong):
        def embed(self, batch: list[Any]) -> np.ndarray:
            return np.ones((len(batch), 4), np.float32)

    report = Report()
    right: Any = Right()
    wrong: Any = Wrong()
    batches = [[np.ones(3, np.int32)] * 2] * 3
    replay.compare_engines(right, wrong, right, batches, report)
    assert report.checks == 3 and len(report.failures) == 1


@pytest.mark.usefixtures("uncompiled")
def test_latency(setting: Setting) -> None:
    rows = passed(latency.STAGE, setting)["all"].content["rows"]
    assert len(rows) == 8 and {len(row["peers"]) for row in rows} == {3, 0}
    assert all(row["measured"] > 0 and row["floor"] > 0 for row in rows)
    assert {"bf16", "bf16 in one batch", "bf16, cuBLAS alone"} <= set(rows[0]["details"]["all"])


@pytest.mark.usefixtures("uncompiled")
def test_latency_with_wrong_logits_fails(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency.Ours, "logits", lambda self, ids: np.full((len(ids), 2), 9.0))
    report = latency.STAGE.run(setting, "all")
    assert report.checks == len(report.failures) == 16


@pytest.mark.usefixtures("uncompiled")
def test_latency_keeps_its_results_when_time_runs_out(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(latency, "TINY", replace(latency.TINY, seconds=0.0))
    kept = replace(setting, kept=tmp_path / "kept.json")
    content = latency.STAGE.run(kept, "all").content
    assert len(content["not_measured"]) == 4 and len(content["rows"]) == 8
    assert (tmp_path / "kept.json").is_file()


@pytest.mark.usefixtures("uncompiled")
def test_peers(setting: Setting) -> None:
    passed(peers.STAGE, setting)


def test_strings_packed_and_saturated(setting: Setting) -> None:
    for stage in (strings.STAGE, packed.STAGE, saturated.STAGE):
        rows = passed(stage, setting)["all"].content["rows"]
        assert rows and all(row["measured"] > 0 and row["aim"] for row in rows)


@pytest.mark.parametrize("inputs, longest", [(64, 128), (16, 512), (6, 16)])
def test_mixed_lengths_have_half_the_longest_for_their_mean(inputs: int, longest: int) -> None:
    lengths = packed.mixed_lengths(np.random.default_rng(0), inputs, longest)
    assert len(lengths) == inputs and max(lengths) == longest and min(lengths) >= 1
    assert sum(lengths) * 2 == inputs * longest


def test_cold_start(setting: Setting) -> None:
    row = passed(cold_start.STAGE, setting)["all"].content["rows"][0]
    assert 0 < row["measured"] < row["details"]["from_process_start_s"]


def test_cold_start_of_a_missing_artifact_reports_the_error() -> None:
    with pytest.raises(
        RuntimeError, match=r"the new process failed: (?s:.*)NotAnArtifactError(?s:.*)nowhere"
    ):
        cold_start.one_start(Path("nowhere"))


def test_profile(setting: Setting) -> None:
    content = passed(profile.STAGE, setting)["all"].content
    assert len(content) == 2
    for found in content.values():
        assert found["top"] and 0 < sum(one["share"] for one in found["top"]) <= 1.001


@pytest.mark.parametrize("part", ["bert-fp32", "t5-bf16", "gemma3-fp32"])
def test_families(setting: Setting, part: str) -> None:
    content = passed(families.STAGE, setting, (part,))[part].content
    assert content["parity"] and content["against_hf"]["min_cosine"] > 0.99


def test_families_detect_a_wrong_output(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    original_answers = families.Oracle.outputs

    def shifted(self: families.Oracle, sequences: Any) -> list[torch.Tensor]:
        return [output + 0.5 for output in original_answers(self, sequences)]

    original = families.check_buckets

    def check_buckets(engine: Encoder, oracle: families.Oracle, *rest: Any) -> dict[str, float]:
        with monkeypatch.context() as patch:
            patch.setattr(families.Oracle, "outputs", shifted)
            return original(engine, oracle, *rest)

    monkeypatch.setattr(families, "check_buckets", check_buckets)
    report = families.STAGE.run(setting, "bert-fp32")
    assert report.failures and all(failure.startswith("bucket") for failure in report.failures)


def test_a_part_for_cuda_alone_is_skipped_here(setting: Setting) -> None:
    with pytest.raises(Skip, match="fp16"):
        families.STAGE.run(setting, "bert-fp16")


def test_every_kernel_file_is_covered() -> None:
    files = {path.stem for path in KERNELS.glob("*.py") if "@triton_op(" in path.read_text("utf-8")}
    assert files == set(kernels.FILES.values()) and set(kernels.FILES) == set(kernels.case_makers())
    assert {part.partition("-")[0] for part in kernels.PARTS} == set(kernels.FILES)


@pytest.mark.parametrize("part", ["attention-0", "pooling-0", "self-0", "cross-0", "rows-0", "project-0"])
def test_kernels(setting: Setting, part: str) -> None:
    content = passed(kernels.STAGE, setting, (part,))[part].content
    assert content["cases"] == kernels.TINY.cases


def _nearly(*arguments: Any) -> torch.Tensor:
    return attention.packed_attention_reference(*arguments) * 1.01


def _unwritten(query: torch.Tensor, *rest: Any) -> torch.Tensor:
    found = query.new_empty((len(query), query.shape[1] * query.shape[2]))
    found[:-1] = attention.packed_attention_reference(query, *rest)[:-1]
    return found


def _not_appended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
    keys, values, *others = rest
    return decode_self_attention(query, key, value, keys.clone(), values.clone(), *others)


@pytest.mark.parametrize(
    ("module", "name", "wrong", "part"),
    [
        (attention, "packed_attention", _nearly, "attention-0"),
        (attention, "packed_attention", _unwritten, "attention-0"),
        (decode_attention, "decode_self_attention", _not_appended, "self-0"),
    ],
)
def test_kernels_detect_a_wrong_one(
    module: ModuleType,
    name: str,
    wrong: Callable[..., torch.Tensor],
    part: str,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, name, wrong)
    report = kernels.STAGE.run(setting, part)
    assert report.checks == len(report.failures) == kernels.TINY.cases


def test_random_lengths_fit_and_have_tokens() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = random_lengths(random, 60)
        assert 0 < sum(lengths) <= 60


def test_ranges() -> None:
    begin, end = ranges([3, 0, 2], 1, (1, 0), "cpu")
    assert begin.tolist() == [0, 0, 1, 3, 3, 5] and end.tolist() == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("part", ["t5-fp32", "marian-bf16"])
def test_generation(setting: Setting, part: str) -> None:
    content = passed(generation.STAGE, setting, (part,))[part].content
    assert content["requests"] == generation.TINY.requests


def test_generation_detects_wrong_tokens(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    against_hf = generation.check_against_hf

    def check(model: Path, requests: Any, *rest: Any) -> int:
        others = [generation.Request([*one.source[::-1], 5], one.options) for one in requests]
        return against_hf(model, others, *rest)

    monkeypatch.setattr(generation, "check_against_hf", check)
    report = generation.STAGE.run(setting, "bart-fp32")
    assert len(report.failures) == 1 and "other tokens than Hugging Face" in report.failures[0]


def test_generation_speed(setting: Setting) -> None:
    passed(generation_models.STAGE, setting, ("T5-small",))
    content = passed(generation_speed.STAGE, setting, ("T5-small",))["T5-small"].content
    (row,) = content["rows"]
    assert row["measured"] > 0 and row["details"]["step_ms"] > 0
    assert set(row["peers"]) == {generation_speed.EAGER} and set(content["steps_per_sync"]) == {"1", "2"}


def test_generation_start(setting: Setting) -> None:
    passed(generation_models.STAGE, setting, (generation_start.MODEL,))
    (row,) = passed(generation_start.STAGE, setting)["all"].content["rows"]
    assert row["measured"] > 0 and row["aim"] == generation_start.AIM_S


def test_generation_profile(setting: Setting) -> None:
    passed(generation_models.STAGE, setting, ("T5-small",))
    content = passed(generation_profile.STAGE, setting)["all"].content
    found = content["T5-small, 1 sources, 1 beams"]
    assert 0 < len(found["top"]) <= 16 and found["kernel_us_a_launch"] > 0


def test_a_missing_artifact_is_not_timed(setting: Setting, tmp_path: Path) -> None:
    for stage, part in ((generation_speed.STAGE, "OPUS-MT"), (generation_start.STAGE, "all")):
        with pytest.raises(Skip, match="was not compiled"):
            stage.run(replace(setting, work=tmp_path), part)


def test_the_bytes_that_a_step_reads() -> None:
    timed = generation_shapes.TIMED[0]
    (work,) = timed.works
    weights = 6 * (6 * 512 * 512 + 2 * 512 * 2048) + 512 * 32_128
    assert timed.bytes_per_step(work, 40) == 2 * (weights + 2 * 6 * 512 * (40 + 64))


@contextmanager
def program(folder: Path, text: str) -> Iterator[Path]:
    path = folder / sanitizer.PROGRAM
    path.write_text(f"#!/bin/sh\nshift 4\n{text}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    yield path


def test_sanitizer(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with program(tmp_path, '"$@" && echo "========= ERROR SUMMARY: 0 errors"'):
        report = passed(sanitizer.STAGE, setting, ("memcheck",))["memcheck"]
    assert report.content["cases"] == len(kernels.case_makers()) * sanitizer.TINY.cases
    for text in (
        '"$@"; echo "========= ERROR SUMMARY: 3 errors"; exit 9',
        'echo "========= ERROR SUMMARY: 0 errors"',
        "exit 1",
    ):
        with program(tmp_path, text):
            assert sanitizer.STAGE.run(setting, "memcheck").failures, text
    with program(tmp_path, "sleep 30"), pytest.raises(Skip, match="took more than"):
        sanitizer.sanitize(
            [str(tmp_path / sanitizer.PROGRAM), *"1234"],
            "memcheck",
            replace(sanitizer.TINY, seconds=0.5),
            "cpu",
        )


def test_sanitizer_without_the_program_is_skipped(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer.shutil, "which", lambda *_, **__: None)
    with pytest.raises(Skip, match="compute-sanitizer is not installed"):
        sanitizer.STAGE.run(setting, "memcheck")


def test_tiles(setting: Setting) -> None:
    assert len(passed(tile_kernels.STAGE, setting, ("64",))["64"].content["tiles"]) == 2
    content = passed(tiles.STAGE, setting)["all"].content
    assert len(content["overall"]["16"]) == 2 and content["overall"]["16"][0]["times_best"] >= 1
    points = [point for point in content.values() if "tiles" in point]
    assert len(points) == 2 and all(point["best"] in point["tiles"] for point in points)


def test_points_hold_their_tokens() -> None:
    assert all(sum(point.lengths()) <= point.tokens for point in tiles.FULL.points)
    assert all(sum(point.lengths()) > point.tokens * 0.98 for point in tiles.FULL.points)


class FakeEvent:
    """An event whose time is the number of events recorded before it."""

    made = 0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at: int | None = None

    def record(self, stream: object = None) -> None:
        FakeEvent.made += 1
        self.at = FakeEvent.made

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.at is not None and end.at is not None
        return float(end.at - self.at)


def test_replays_are_timed_while_the_stopwatch_is_on() -> None:
    stopwatch = Stopwatch()
    device = timed(FakeDevice, stopwatch, lambda: FakeEvent(enable_timing=True))(seed=3)
    served = fake_replay(device, upto=8)
    served.prepare()
    random = np.random.default_rng(0)

    def run(*lengths: int) -> None:
        served.launch(fill(served, [random_tokens(random, length) for length in lengths])).result()

    run(5)
    assert stopwatch.marks == []
    assert stopwatch.spans(lambda: run(5), 2) == [1e-3, 1e-3]
    assert stopwatch.spans(lambda: (run(5), run(20, 20)), 1) == [3e-3]  # type: ignore[func-returns-value]
    with pytest.raises(RuntimeError, match="expected a replay"):
        stopwatch.spans(lambda: None, 1)
    served.close()
    assert device.violations == []


def test_the_clock_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the order of calls with a fake torch.cuda."""
    calls: list[str] = []

    @contextmanager
    def context(*_: object, **__: object) -> Iterator[None]:
        calls.append("begin")
        yield
        calls.append("end")

    class Graph:
        def replay(self) -> None:
            calls.append("replay")

    for name, fake in (
        ("Event", FakeEvent), ("Stream", FakeStream), ("CUDAGraph", Graph), ("graph", context),
        ("stream", context), ("synchronize", lambda: calls.append("synchronize")),
        ("empty_cache", lambda: None), ("memory_reserved", lambda: 7),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: FakeStream("side"))
    clock = clock_of("cuda")
    assert isinstance(clock, CudaClock) and isinstance(clock_of("cpu"), HostClock)
    assert clock.device_seconds([lambda: calls.append("work")], 3, warmup=1) == [1e-3] * 3
    assert calls == ["work", "synchronize", "work", "work", "work", "synchronize"]
    calls.clear()
    clock.graph(lambda: calls.append("work"))()
    assert calls == ["synchronize", "begin", "work", "end", "synchronize", "begin", "work", "end", "replay"]
    clock.synchronize()
    assert clock.reserved_bytes() == 7
