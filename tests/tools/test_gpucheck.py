"""The GPU check without a GPU: its runner, its formulas and its table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from precast.tools.bench import readme
from precast.tools.gpucheck import __main__ as command
from precast.tools.gpucheck import floors
from precast.tools.gpucheck.result import Result
from precast.tools.gpucheck.rows import Published, Row
from precast.tools.gpucheck.runner import Runner
from precast.tools.gpucheck.stage import Report, Setting, Stage, finished, worst_case
from precast.tools.gpucheck.stages import STAGES
from tests.support import fake_stages

ROOT = Path(__file__).resolve().parents[2]
_NEVER = 300
"""Seconds after which a test gives up on an event; it guards against hanging and says nothing about speed."""
WHERE = "tests.support.fake_stages:STAGES"
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


def run(work: Path, *names: str, budget: float = 60) -> tuple[bool, dict[str, Any]]:
    """Run fake stages; return whether they passed, and the stages of the result file."""
    stages = [stage for stage in fake_stages.STAGES if stage.name in names]
    assert len(stages) == len(names)
    runner = Runner(
        stages, Setting(work, "cpu", tiny=True), Result(work / "out.json", work / "passed"),
        where=WHERE, jobs=4, budget=budget, environment=ENVIRONMENT,
    )  # fmt: skip
    passed = runner.run()
    found: dict[str, Any] = json.loads((work / "out.json").read_text("utf-8"))
    return passed, found["stages"]


def test_passing_and_failing_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("passing", "parts", "raising", "hanging", "dying", "chatty", "idle", "skipping")
    started = time.monotonic()
    passed, found = run(tmp_path, *names)
    assert not passed and time.monotonic() - started < _NEVER, "the hanging stage was not ended by its limit"
    assert {name: found[name]["status"] for name in names} == {
        "passing": "passed", "parts": "passed", "raising": "failed", "hanging": "failed",
        "dying": "failed", "chatty": "passed", "idle": "failed", "skipping": "skipped",
    }  # fmt: skip
    assert found["passing"]["part"] == "all" and found["passing"]["checks"] == 1
    assert found["parts"]["checks"] == 3 and list(found["parts"]["parts"]) == ["a", "b", "c"]
    assert "passing" in found["parts"]["parts"]["b"]["seen"]
    assert found["raising"]["failures"] == ["ValueError: made up"]
    assert "about to raise" in found["raising"]["last_lines"]
    assert found["hanging"]["failures"][0].startswith("ended after its limit of 4 s")
    assert found["hanging"]["kept"] is True and found["hanging"]["checks"] == 2
    assert "ended with signal SIGSEGV and without a report" in found["dying"]["failures"][0]
    assert found["dying"]["last_lines"][0] == "the last words"
    assert found["idle"]["failures"] == ["stage idle checked nothing"]
    assert found["skipping"]["reason"] == "there is no such program here"
    printed = capsys.readouterr().out
    assert "[parts/b] part b runs" in printed and "[chatty] line 19999 " in printed
    pids = [int(pid) for pid in (tmp_path / "pids").read_text("utf-8").split()]
    _wait_for(lambda: all(map(_gone, pids)))


def test_a_stage_runs_if_the_part_that_it_needs_passed(tmp_path: Path) -> None:
    passed, found = run(tmp_path, "half", "needs-good", "needs-bad")
    assert not passed
    assert found["half"]["failures"] == ["bad: wrong on purpose"]
    assert found["needs-good"]["status"] == "passed"
    assert found["needs-bad"]["failures"] == ["needs half/bad, which did not pass"]


def test_a_stage_that_runs_alone_has_no_parallel_stages(tmp_path: Path) -> None:
    passed, _ = run(tmp_path, "beside", "alone", "last")
    assert passed
    lines = [line.split() for line in (tmp_path / "spans").read_text("utf-8").splitlines()]
    spans = [(float(begun), float(ended)) for _, begun, ended in lines]
    assert len(spans) == 5
    for before, after in pairwise(spans[1:]):
        assert before[1] <= after[0]
    assert spans[0][1] <= spans[2][0]
    assert lines[0][0] == lines[1][0] == lines[-1][0] == "2", "parallel processes have few threads"


def test_stages_beyond_the_budget_fail(tmp_path: Path) -> None:
    _, found = run(tmp_path, "hanging", "alone", budget=1)
    assert found["hanging"]["status"] == "failed"
    assert found["alone"]["failures"] == [f"{part}: not started: no time left" for part in "ab"]


PROGRAM = """
import sys
from pathlib import Path
from tests.support.fake_stages import STAGES
from precast.tools.gpucheck.result import Result
from precast.tools.gpucheck.runner import Runner
from precast.tools.gpucheck.stage import Setting, Stage
work = Path(sys.argv[1])
stages = [stage for stage in STAGES if stage.name == "passing"]
(hanging,) = (stage for stage in STAGES if stage.name == "hanging")
stages.append(Stage("hanging", "it hangs", 600, hanging.run, after=("passing",)))
result = Result(work / "out.json", work / "passed")
where, environment = "tests.support.fake_stages:STAGES", {}
Runner(stages, Setting(work), result, where=where, jobs=2, budget=600, environment=environment).run()
"""


def test_a_killed_run_keeps_its_results_and_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, **ENVIRONMENT}
    runner = subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdout is not None
    guard = threading.Timer(_NEVER, runner.kill)
    guard.start()
    # Blocks until the stage says so, however long a loaded machine takes to start it.
    assert any("both processes hang" in line for line in runner.stdout), "the stage never started"
    guard.cancel()
    runner.kill()
    runner.wait()
    runner.stdout.close()
    found = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert found["stages"]["passing"]["status"] == "passed" and "hanging" not in found["stages"]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text("utf-8").split()]
    _wait_for(lambda: all(map(_gone, pids)))


def test_list_only_and_skip(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(stage.name in printed and stage.proves in printed for stage in STAGES)
    names = [stage.name for stage in STAGES]
    only = command.select_stages(STAGES, ("profile", "replay"), ())
    assert [stage.name for stage in only] == ["machine", "lower", "compile", "replay", "profile"]
    assert [stage.name for stage in command.select_stages(STAGES, ("profile",), (), ["compile"])] == [
        "profile"
    ]
    left = command.select_stages(STAGES, None, ("tiles", "families"))
    assert [stage.name for stage in left] == [n for n in names if n not in ("tiles", "families")]
    with pytest.raises(SystemExit, match="stages must be among machine, lower, .*; found speed"):
        command.select_stages(STAGES, ("speed",), ())


def test_without_a_gpu_there_is_a_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="expected a CUDA device, found none; --rehearse runs"):
        command.main([])


def test_exit_status_and_stored_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = command.Suite(fake_stages.STAGES, WHERE, "gpu_check.json")
    monkeypatch.setitem(command.SUITES, "encoders", suite)
    monkeypatch.setattr(command, "environment", lambda work, rehearse: ENVIRONMENT)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options = ["--rehearse", "--work", str(tmp_path / "work"), "--jobs", "2"]
    output = tmp_path / "found.json"
    assert command.main([*options, "--only", "passing", "--output", str(output)]) == 0
    assert json.loads(output.read_text("utf-8"))["stages"]["passing"]["checks"] == 1
    assert command.main([*options, "--only", "parts", "--output", str(output)]) == 0
    seen = json.loads(output.read_text("utf-8"))["stages"]
    assert list(seen) == ["parts"] and seen["parts"]["parts"]["a"]["seen"] == ["passing"]
    assert command.main([*options, "--only", "needs-bad"]) == 1
    assert (tmp_path / "work" / "result.json").is_file(), (
        "a partial check does not replace the result of the project"
    )


@pytest.mark.parametrize("suite", list(command.SUITES))
def test_the_stages_are_consistent(suite: str) -> None:
    stages = command.SUITES[suite].stages
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for at, stage in enumerate(stages):
        assert stage.limit > 0 and stage.proves and stage.parts
        assert stage.waits <= set(names[:at]), f"{stage.name} waits for a later stage"
        for need in stage.needs:
            name, _, part = need.partition("/")
            assert not part or part in stages[names.index(name)].parts
    assert worst_case(stages) < command.BUDGET_S <= 540


def test_the_worst_case_adds_the_limits_that_cannot_overlap() -> None:
    def stage(name: str, limit: float, **more: Any) -> Stage:
        return Stage(name, "", limit, lambda setting, part: Report(), **more)

    first, second = stage("a", 10), stage("b", 7, needs=("a/part",))
    assert worst_case([first, second, stage("c", 12)]) == 17
    assert worst_case([first, stage("t", 5, alone=True), stage("c", 12)]) == 27
    assert worst_case([stage("t", 5, alone=True), first, second, stage("u", 1, alone=True)]) == 23


def test_parts_become_one_report() -> None:
    merged = finished("x", {"a": Report(2, {"k": 1}), "b": Report(1, {}, ["wrong"])})
    assert (merged.checks, merged.failures) == (3, ["b: wrong"])
    assert merged.content == {"parts": {"a": {"k": 1}, "b": {}}}
    assert finished("x", {"a": Report(), "b": Report()}).failures == ["stage x checked nothing"]


def test_floors() -> None:
    bert = floors.BERT_BASE
    assert bert.weights == 12 * (4 * 768 * 768 + 2 * 768 * 3072) == 84_934_656
    assert floors.encoder_flops(bert, [128]) == 2 * 84_934_656 * 128 + 4 * 12 * 768 * 128**2
    assert floors.encoder_flops(bert, [64, 64]) < floors.encoder_flops(bert, [128])
    assert floors.encoder_bytes(bert, [100]) == 2 * (84_934_656 + 76_800)
    assert floors.attention_flops([2, 3], 4, 8) == 4 * 4 * 8 * 13
    ceilings = floors.Ceilings(1e12, {"bf16": 1e14})
    assert floors.floor_s(ceilings, "bf16", 1e12, 1e9) == 1e-2
    assert floors.floor_s(ceilings, "bf16", 1e9, 1e12) == 1.0
    assert floors.floor_s(ceilings, "fp16", 1, 1) is None and floors.floor_s(None, "bf16", 1, 1) is None
    assert floors.Ceilings.of(None) is None


def test_rows() -> None:
    less = Row("time", 0.31234567, "ms", aim=0.3, floor=0.1, published=Published(0.67, "TensorRT"))
    assert less.met is False and less.times_floor == 3.123
    assert less.plain()["measured"] == 0.3123 and less.plain()["published"]["who"] == "TensorRT"
    more = Row("rate", 4e6, "tokens/s", aim=3e6, floor=8e6)
    assert more.met is True and more.times_floor == 2
    assert Row("no aim", 1.0, "s").met is None and Row("no floor", 1.0, "x").times_floor is None


def example() -> dict[str, Any]:
    rows = [
        Row("BERT, 1x128", 0.29, "ms", 0.3, 0.06, Published(0.67, "TensorRT"), {"HF eager": 8.0}),
        Row("embeddings", 2.5e6, "tokens/s", aim=3e6, floor=4e6),
        Row("packed", 1.91, "x", aim=1.8),
    ]
    return {
        "rehearsal": False,
        "machine": {"gpu": "NVIDIA H100", "driver": "580", "cpu": "x", "cores": 16},
        "versions": {"torch": "2.11.0", "cuda": "13.0"},
        "rows": [row.plain() for row in rows],
        "stages": {
            "machine": {
                "status": "passed",
                "ceilings": {"bytes_per_s": 3e12, "flops_per_s": {"bf16": 7.9e14}},
            },
            "tiles": {"status": "failed"},
        },
    }


def test_the_table_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\n<!-- table: gpu_check -->\nold\n<!-- end -->\nb"
    monkeypatch.setattr(readme, "read_result", lambda name: None)
    assert "\nNot yet measured on a GPU.\n" in readme.rendered(text)
    monkeypatch.setattr(readme, "read_result", lambda name: example())
    lines = readme.rendered(text).splitlines()
    assert "| BERT, 1x128 | 0.29 ms | 0.3 ms, met | 4.83× | 8 ms | 0.67 ms (TensorRT) |" in lines
    assert "| embeddings | 2.50 M tokens/s | 3.00 M tokens/s, missed | 1.60× |  |  |" in lines
    assert "| packed | 1.91× | 1.80×, met |  |  |  |" in lines
    assert "1 of 2 stages" in lines[-3] and "not tiles" in lines[-3] and "3.00 TB/s" in lines[-3]
    rehearsal = example() | {"rehearsal": True}
    monkeypatch.setattr(readme, "read_result", lambda name: rehearsal)
    assert "Not yet measured on a GPU." in readme.rendered(text)


def _gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie counts."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _wait_for(condition: Callable[[], bool], seconds: float = _NEVER) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
