"""The command line, from compiling to ranking, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import precast
from precast.tools.cli import console
from precast.tools.cli.app import app
from precast.tools.models import write_small
from tests.support.artifacts import TinyModels


def invoke(*arguments: object, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


def succeed(*arguments: object, text: str | None = None) -> str:
    result = invoke(*arguments, text=text)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of one width, whatever terminal the tests run in."""
    monkeypatch.setattr(console.out, "_width", 200)


def test_compile_inspect_verify(tiny: TinyModels, tmp_path: Path) -> None:
    checkpoint, out = tiny["embed"].checkpoint, tmp_path / "a.precast"
    said = succeed("compile", checkpoint, "-o", out, "--backend", "reference", "--max-length", 20)
    assert "task embed" in said and "parity over" in said
    shown = succeed("inspect", out)
    assert "mean pooling" in shown and "20 tokens an input" in shown and "input_ids [tokens] int32" in shown
    manifest = json.loads(succeed("inspect", out, "--json"))
    assert manifest["limits"]["max_length"] == 20
    parity = json.loads(succeed("verify", out, "--against", checkpoint, "--json"))
    assert parity["max_relative_error"] <= parity["allowed_relative_error"]
    assert "parity over" in succeed("verify", out, "--against", checkpoint)


def test_a_buckets_is_fitted_and_shown_with_its_costs(
    tiny: TinyModels, compiled: Path, tmp_path: Path
) -> None:
    out, lengths = tmp_path / "a.precast", tmp_path / "lengths.json"
    lengths.write_text('{"lengths": {"9": 3, "30": 1}, "concurrency": {"1": 1}}', "utf-8")
    given = ("compile", tiny["embed"].checkpoint, "-o", out, "--backend", "reference", "--max-tokens", 128)
    assert "fitted to workload: 3 buckets" in invoke(*given, "--workload", lengths).stderr
    shown = succeed("inspect", out)
    assert "tokens: 16, 32, 128" in shown and "ms:" not in shown
    succeed(*given, "--workload", lengths, "--graphs", 2, "--overwrite")
    assert "tokens: 32, 128" in succeed("inspect", out)
    failed = invoke(*given, "--graphs", 2, "--overwrite")
    assert failed.exit_code == 2 and "pass workload too" in failed.stderr
    failed = invoke(*given, "--workload", tmp_path / "gone.json", "--overwrite")
    assert failed.exit_code == 2 and "WorkloadError" in failed.stderr
    shown = succeed("inspect", compiled)
    costs = json.loads(succeed("inspect", compiled, "--json"))["graphs"]["encode"]["costs"]
    assert "ms: " + ", ".join(f"{1000 * seconds:.3g}" for seconds in costs) in shown


def test_compile_says_in_json_what_it_did(tiny: TinyModels, tmp_path: Path) -> None:
    checkpoint, out = tiny["classify"].checkpoint, tmp_path / "a.precast"
    said = json.loads(
        succeed("compile", checkpoint, "-o", out, "--backend", "reference", "--no-verify", "--json")
    )
    assert said["parity"] is None and any("--no-verify" in note for note in said["notes"])
    assert "compile the graphs" in said["seconds"]


def test_an_encoder_decoder_is_compiled_and_inspected(tmp_path: Path) -> None:
    checkpoint, out = write_small("marian", tmp_path / "model"), tmp_path / "a.precast"
    limits = ("--max-target-length", 12, "--max-rows", 6, "--max-length", 20)
    said = succeed("compile", checkpoint, "-o", out, "--backend", "reference", "--no-verify", *limits)
    assert "task generate" in said
    shown = succeed("inspect", out)
    assert "20 tokens a source, 12 positions an answer, 6 rows" in shown
    assert "decoder_start_token_id=2" in shown and "over a vocabulary of 160" in shown
    assert "cross_key_0 … cross_value_1 [cross_kv, 2, 32] float32" in shown
    assert all(name in shown for name in ("encode_source", "sample.beam", "sampled_seqs: 1, 2, 4, 6"))


def test_embed_reads_and_writes_every_way(tiny: TinyModels, tmp_path: Path) -> None:
    artifact = tiny["embed"].artifact
    with precast.Encoder.load(artifact) as engine:
        expected = engine.embed(["the cat", "sat"])
    (tmp_path / "in.txt").write_text("the cat\nsat\n", "utf-8")
    (tmp_path / "in.jsonl").write_text('{"text": "the cat"}\n"sat"\n', "utf-8")
    for arguments, text in (
        (("the cat", "sat"), None),
        (("--input", tmp_path / "in.txt"), None),
        (("--input", tmp_path / "in.jsonl"), None),
        (("--input", "-"), "the cat\nsat\n"),
        ((), "the cat\nsat\n"),
    ):
        found = json.loads(succeed("embed", artifact, *arguments, "--json", text=text))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    succeed("embed", artifact, "the cat", "sat", "-o", tmp_path / "v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    succeed("embed", artifact, "the cat", "sat", "-o", tmp_path / "v.jsonl", "--truncate-dim", 4)
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["the cat", "sat"] and len(rows[0]["embedding"]) == 4
    assert "16 dimensions" in succeed("embed", artifact, "[odd] text")


def test_classify_and_rank(tiny: TinyModels, tmp_path: Path) -> None:
    with precast.Encoder.load(tiny["classify"].artifact) as engine:
        expected = engine.classify(["the cat"], top_k=None)
    found = json.loads(succeed("classify", tiny["classify"].artifact, "the cat", "--top-k", 0, "--json"))
    assert [entry["label"] for entry in found[0]] == [entry["label"] for entry in expected[0]]
    assert "LABEL_" in succeed("classify", tiny["classify"].artifact, "the cat")
    with precast.Encoder.load(tiny["rerank"].artifact) as engine:
        ranked = engine.rank("cat", ["the", "cat", "sat"], top_k=2)
    found = json.loads(
        succeed("rank", tiny["rerank"].artifact, "cat", "the", "cat", "sat", "--top-k", 2, "--json")
    )
    assert [entry["corpus_id"] for entry in found] == [entry["corpus_id"] for entry in ranked]
    succeed("rank", tiny["rerank"].artifact, "cat", "the", "-o", tmp_path / "r.jsonl")
    assert json.loads((tmp_path / "r.jsonl").read_text("utf-8"))["text"] == "the"
    assert "document" in succeed("rank", tiny["rerank"].artifact, "cat", "the")


def test_errors_are_told_and_end_with_status_2(tiny: TinyModels, tmp_path: Path) -> None:
    failed = invoke("inspect", tmp_path / "nothing")
    assert failed.exit_code == 2 and "NotAnArtifactError" in failed.stderr
    failed = invoke("classify", tiny["embed"].artifact, "a", "--json")
    assert failed.exit_code == 2 and json.loads(failed.stdout)["error"]["type"] == "TaskError"
    failed = invoke("compile", tiny["embed"].checkpoint, "-o", tmp_path / "a", "--dtype", "int3")
    assert failed.exit_code == 2 and "dtype must be one of" in failed.stderr
    failed = invoke("compile", tiny["embed"].checkpoint, "-o", tiny["embed"].artifact)
    assert failed.exit_code == 2 and "--overwrite" in failed.stderr


@pytest.mark.parametrize(
    "arguments", [("a", "--input", "x.txt"), ("--input", "missing.txt"), ("-o", "x.csv", "a")]
)
def test_impossible_arguments_are_refused(tiny: TinyModels, arguments: tuple[str, ...]) -> None:
    assert invoke("embed", tiny["embed"].artifact, *arguments).exit_code == 2


def test_version() -> None:
    assert succeed("--version").strip() == precast.__version__
