"""The speed check of quantized models: how it is measured, and that slower artifacts are rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import precast
from precast.artifacts import host
from precast.compiler.errors import SpeedCheckError
from precast.compiler.verify import artifact
from precast.compiler.verify.speed import (
    BUDGET,
    COUNTS,
    VISITS,
    Open,
    Run,
    measure_speedup,
    run_encoder_example,
    run_generation_example,
    speedup_note,
)
from tests.support.artifacts import TinyModels, tiny_checkpoint, tiny_config
from tests.support.generating import t5

on_avx512 = pytest.mark.skipif(
    not {"avx512_bf16", "avx512_vnni"} <= host.instruction_sets(), reason="the kernels require AVX-512"
)


@dataclass
class Machine:
    """Simulated engines that take ``costs[name]`` seconds per input, and a simulated clock."""

    costs: dict[str, float]
    now: float = 0.0
    calls: int = 0
    opened: list[str] = field(default_factory=list)
    are_open: int = 0

    def opening(self, name: str) -> Open:
        @contextmanager
        def opened() -> Iterator[str]:
            assert self.are_open == 0, "two engines are open simultaneously"
            self.opened.append(name)
            self.are_open += 1
            yield name
            self.are_open -= 1

        return opened

    def run(self, name: str, count: int) -> None:
        self.calls += 1
        # Every second call takes twice as long, on every engine.
        self.now += self.costs[name] * count * (1 + self.calls % 2)

    def clock(self) -> float:
        return self.now


def test_the_shortest_times_of_interleaved_engines_are_compared() -> None:
    machine = Machine({"bf16": 0.002, "int8": 0.0008})
    speedup = measure_speedup(
        machine.opening("bf16"), machine.opening("int8"), machine.run, clock=machine.clock
    )
    assert speedup == pytest.approx({count: 2.5 for count in COUNTS})
    assert machine.opened == ["bf16", "int8"] * VISITS
    assert machine.now < 2 * VISITS * len(COUNTS) * (BUDGET + 1)


def test_a_slow_call_is_measured_once_per_visit() -> None:
    machine = Machine({"bf16": 2 * BUDGET, "int8": BUDGET})
    measure_speedup(machine.opening("bf16"), machine.opening("int8"), machine.run, clock=machine.clock)
    assert machine.calls == 2 * VISITS * len(COUNTS) * 2, "expected one warmup and one timed call"


def test_a_speedup_is_noted_and_no_speedup_is_rejected() -> None:
    assert "relative to bf16" in speedup_note({1: 1.5, 32: 2.0}, "bf16")
    assert "0.90 times for 1 and 1.50 times for 32" in speedup_note({1: 0.9, 32: 1.5}, "bf16")
    for speedup in ({1: 1.0, 32: 1.0}, {1: 1.2, 32: 0.7}):
        with pytest.raises(SpeedCheckError, match="Leave quantize out, or keep .* --no-check-speed"):
            speedup_note(speedup, "fp32")


def test_example_inputs_are_within_the_limits_of_both_kinds_of_engines(
    tiny: TinyModels, tmp_path: Path
) -> None:
    with precast.Encoder.load(tiny["embed"].artifact) as encoder:
        assert all(len(run_encoder_example(encoder, count)) == count for count in COUNTS)
    with precast.Seq2Seq.load(t5(tmp_path).artifact) as seq2seq:
        for count in COUNTS:
            outputs = run_generation_example(seq2seq, count)
            assert [len(output.token_ids) for output in outputs] == [1 + 16] * count


@on_avx512
def test_an_int8_artifact_is_kept_only_if_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint("embed", tmp_path / "model", config=tiny_config())
    opened_builds: list[str | None] = []

    def watched(open_engine: Callable[[], Any]) -> Open:
        @contextmanager
        def opened() -> Iterator[Any]:
            with open_engine() as engine:
                opened_builds.append(engine.manifest.build.quantization)
                yield engine

        return opened

    def measured(speedup: float) -> Callable[[Open, Open, Run], dict[int, float]]:
        def measure(plain: Open, quantized: Open, run: Run) -> dict[int, float]:
            assert min(measure_speedup(watched(plain), watched(quantized), run).values()) > 0
            return {1: speedup}

        return measure

    def compiled(name: str) -> precast.Manifest:
        return precast.compile(checkpoint, tmp_path / "out" / name, quantize="int8", max_tokens=256)

    monkeypatch.setattr(artifact, "measure_speedup", measured(1.25))
    manifest = compiled("faster")
    assert opened_builds == [None, "int8"] * VISITS
    assert any("1.25 times for 1" in note for note in manifest.notes) and manifest.parity is not None
    with precast.load(tmp_path / "out" / "faster") as engine:
        assert engine.manifest == manifest and len(engine.encode([[5, 6]])) == 1

    monkeypatch.setattr("precast.compiler.measurements.cache_folder", lambda: tmp_path / "empty")
    monkeypatch.setattr(artifact, "measure_speedup", measured(0.75))
    with pytest.raises(SpeedCheckError, match="0.75 times for 1; nothing was written"):
        compiled("slower")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["faster"]
