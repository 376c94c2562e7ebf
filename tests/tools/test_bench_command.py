"""``precast bench`` from the command line to its files, and the arguments it rejects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import precast
from precast.tools.bench import bench, fresh, generation_bench
from precast.tools.bench.bench_result import read
from precast.tools.bench.comparison import BenchError, open_artifacts
from precast.tools.bench.interleave import ContenderExited, InterleavedProcesses
from precast.tools.bench.peers import registry
from precast.tools.bench.peers.contender import REFERENCE, Contender
from precast.tools.bench.peers.ctranslate2_model import convert
from precast.tools.bench.peers.ctranslate2_peer import CTranslate2Generating
from precast.tools.bench.peers.hugging_face import HuggingFaceGenerating, torch_dtype
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.precast_artifact import Generating, contender
from precast.tools.bench.peers.work import EmbedTexts, PeakMemory, Work, makers
from precast.tools.cli import console
from precast.tools.cli.app import app
from precast.tools.models import write_small_seq2seq
from precast.tools.synthetic import Training, write_dates_model
from tests.support.artifacts import TinyModels, tiny_artifact

WORK = EmbedTexts((["a"],))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip cold starts, which take seconds; models are converted all the same."""
    monkeypatch.setattr(fresh, "start", lambda *_: dict.fromkeys(fresh.PHASES, 0.1))


@pytest.mark.usefixtures("quick_starts")
def test_a_table_a_result_and_a_report(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", 200)
    found = registry.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "openvino" else found(name))
    texts = tmp_path / "mine.txt"
    texts.write_text("the cat\nthe cat sat on the cat\n", "utf-8")
    output, report = tmp_path / "out" / "found.json", tmp_path / "found.html"
    said = invoke(
        tiny["embed"].artifact, "--model", tiny["embed"].checkpoint, "--against", "openvino,ctranslate2",
        "--texts", texts, "--rounds", 1, "--threads", 1, "--output", output, "--report", report,
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "openvino not installed" in said.stdout and "precast fp32" in said.stdout
    result = read(output.read_text("utf-8"))
    names = ["precast fp32", REFERENCE, "CTranslate2 fp32", "CTranslate2 int8"]
    assert [one.name for one in result.contenders] == names
    assert {(row.contender, row.batch, row.input) for row in result.encoder_rows()} == {
        (name, 1, source) for name in names for source in ("ids", "texts")
    }
    assert [one.name for one in result.skipped] == ["openvino"]
    assert (result.texts[0].name, result.texts[0].texts, result.threads) == ("mine", 2, 1)
    for one in result.contenders:
        assert one.cold_start_s == dict.fromkeys(fresh.PHASES, 0.1)
        assert one.tokenization_ms["mine"] > 0 and (one.peak_memory_bytes or 1) > 0
    for row in result.encoder_rows():
        assert row.best_peer in names[1:] and row.min_cosine is not None and row.min_cosine > 0.98
        assert row.lower_quartile_ms == row.median_ms == row.upper_quartile_ms
    assert "precast fp32" in report.read_text("utf-8") and result.versions["torch"]


@pytest.mark.usefixtures("quick_starts")
def test_encoder_decoders_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_bench, "NEW_TOKENS", 4)
    monkeypatch.setattr(generation_bench, "BATCHES", (1, 2))
    monkeypatch.setattr(generation_bench, "REQUESTS", 3)
    checkpoint = write_small_seq2seq("t5", tmp_path / "checkpoint")
    path = tmp_path / "a.precast"
    limits = {"max_length": 12, "max_target_length": 10, "max_num_seqs": 8}
    precast.compile(checkpoint, path, backend="reference", verify=False, **limits)  # type: ignore[arg-type]
    options = bench.Options((path,), ("compile",), str(checkpoint), rounds=1, threads=1, rest=0.0)
    result = bench.run(options, lambda _: None)
    rows = result.generation_rows()
    assert {(row.contender, row.batch, row.beams) for row in rows} == {
        (name, batch, beams) for name in ("precast fp32", REFERENCE) for batch in (1, 2) for beams in (1, 4)
    }
    assert all(row.token_agreement == 1.0 for row in rows) and "generate" in result.skipped[0].reason
    first = {one.name: one.first_token_ms for one in result.contenders}
    assert first["precast fp32"] is None and (first[REFERENCE] or 0) > 0  # no tokenizer: no text to stream
    assert len(result.arrivals) == 2 * 3 and all(0 < one.p50_s <= one.p95_s for one in result.arrivals)


def test_the_first_token_comes_before_the_last(tmp_path: Path) -> None:
    checkpoint = write_dates_model("t5", tmp_path / "checkpoint", Training(steps=2, batch=8))
    path, converted = tmp_path / "a.precast", convert(checkpoint, tmp_path / "converted")
    limits = {"max_length": 32, "max_target_length": 14, "max_num_seqs": 8}
    precast.compile(checkpoint, path, backend="reference", verify=False, **limits)  # type: ignore[arg-type]
    engines: list[Any] = [
        Generating(path, 1),
        HuggingFaceGenerating(checkpoint, torch_dtype("fp32"), 1),
        CTranslate2Generating(converted, "float32", 1),
    ]
    job = Job(((10, 11, 12, 1),), 12, 1)
    for engine in engines:
        assert engine.first_token(job) > 0 and len(engine.generate(job)[0]) == 12


def test_a_peer_that_fails_is_skipped_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(one: Contender, *_: object) -> dict[str, float]:
        if one.name == "broken":
            raise fresh.FreshProcessError("ImportError: no such thing")
        return dict.fromkeys(fresh.PHASES, 1.0)

    monkeypatch.setattr(fresh, "start", start)
    some = [Contender(name, name, "fp32", dict, ()) for name in ("broken", "whole")]
    participants = bench.start_contenders(some, [], WORK, 1, 1, lambda _: None)
    assert [one.name for one in participants.contenders] == ["whole"] == list(participants.starts)
    assert [(one.name, one.reason) for one in participants.skipped] == [
        ("broken", "ImportError: no such thing")
    ]
    ours = Contender("broken", "precast", "fp32", dict, ())
    with pytest.raises(BenchError, match="broken fails: ImportError"):
        bench.start_contenders([ours], [], WORK, 1, 1, lambda _: None)


def test_a_new_process_is_timed_phase_by_phase(tiny: TinyModels) -> None:
    (one,) = open_artifacts([tiny["embed"].artifact], None)
    made = contender(one.path, one.name, one.manifest, 1)
    seconds = fresh.start(made, WORK, 1)
    assert list(seconds) == list(fresh.PHASES) and all(value >= 0 for value in seconds.values())
    assert seconds["import torch"] > 0.1 and seconds["load"] > 0


def test_a_removed_contender_is_not_called_and_one_that_fails_is_named() -> None:
    some = [Contender(name, name, "fp32", dict, ()) for name in ("removed", "kept")]
    with InterleavedProcesses[Work, Any](makers(some, 1)) as processes:
        assert list(processes.outputs(PeakMemory())) == ["removed", "kept"]
        processes.remove("removed")
        assert list(processes.measured(PeakMemory(), 2)[1]) == ["kept"]
        with pytest.raises(ContenderExited, match="kept exited before it returned an output"):
            processes.outputs(WORK)  # a dict has no method embed


def test_a_new_process_reports_its_error() -> None:
    one = Contender("broken", "broken", "fp32", dict, ("no_such_module_anywhere",))
    with pytest.raises(fresh.FreshProcessError, match="No module named 'no_such_module_anywhere'"):
        fresh.start(one, WORK, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--against", "hf,tensorflow"), "--against knows hf, compile"),
        (("--rounds", 0), "--rounds must be at least 1, found 0"),
        (("--threads", 0), "--threads must be at least 1, found 0"),
        (("--model", "/nowhere/at all"), "--model"),
        (("--output", "x.txt"), "must end in .json"),
        (("--report", "x.pdf"), "must end in .html"),
        (("--texts", "missing.txt"), "missing.txt is not a file"),
    ],
)
def test_invalid_arguments_are_rejected(tiny: TinyModels, arguments: tuple[object, ...], said: str) -> None:
    failed = invoke(tiny["embed"].artifact, *arguments)
    assert failed.exit_code == 2 and said in " ".join(failed.output.split())


def test_errors_are_json_with_the_json_option(tmp_path: Path) -> None:
    failed = invoke(tmp_path / "nothing", "--json")
    assert failed.exit_code == 2
    assert json.loads(failed.stdout)["error"]["type"] == "NotAnArtifactError"


def test_artifacts_belong_to_one_model_and_have_distinct_names(tiny: TinyModels, tmp_path: Path) -> None:
    artifact, checkpoint = tiny["embed"].artifact, str(tiny["embed"].checkpoint)
    other = tiny_artifact(tiny["embed"].checkpoint, tmp_path / "other.precast", max_length=20)
    half = tiny_artifact(tiny["embed"].checkpoint, tmp_path / "half.precast", dtype="bf16")
    names = [one.name for one in open_artifacts([artifact, other, half], checkpoint)]
    assert names == ["precast fp32 (embed.precast)", "precast fp32 (other.precast)", "precast bf16"]
    with pytest.raises(BenchError, match="one checkpoint and task"):
        open_artifacts([artifact, tiny["classify"].artifact], checkpoint)
    with pytest.raises(BenchError, match="rename"):
        open_artifacts([artifact, artifact], checkpoint)
