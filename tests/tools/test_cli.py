"""The command line, from ``compile`` to ``rank``."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import typer
from transformers.utils import logging
from typer.testing import CliRunner, Result

import precast
from precast.compiler.options import CompileOptions
from precast.runtime.errors import TaskError
from precast.tools.cli import console
from precast.tools.cli.app import app
from precast.tools.cli.compile import compile_command
from precast.tools.cli.options import options_from
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
    """Give tables one width, whatever terminal the tests run in."""
    monkeypatch.setattr(console.out, "_width", 200)


def test_compile_inspect_verify(tiny: TinyModels, tmp_path: Path) -> None:
    checkpoint, out = tiny["embed"].checkpoint, tmp_path / "a.precast"
    said = succeed("compile", checkpoint, "-o", out, "--backend", "reference", "--max-length", 20)
    assert "task embed" in said and "parity over" in said
    shown = succeed("inspect", out)
    assert "mean pooling" in shown and "20 tokens per input" in shown and "input_ids [tokens] int32" in shown
    manifest = json.loads(succeed("inspect", out, "--json"))
    assert manifest["limits"]["max_length"] == 20
    parity = json.loads(succeed("verify", out, "--against", checkpoint, "--json"))
    assert parity["max_relative_error"] <= parity["allowed_relative_error"]
    assert "parity over" in succeed("verify", out, "--against", checkpoint)


def test_buckets_are_fitted_to_a_workload_and_shown_with_their_costs(
    tiny: TinyModels, compiled: Path, tmp_path: Path
) -> None:
    out, lengths = tmp_path / "a.precast", tmp_path / "lengths.json"
    lengths.write_text('{"lengths": {"9": 3, "30": 1}, "concurrency": {"1": 1}}', "utf-8")
    given = ("compile", tiny["embed"].checkpoint, "-o", out, "--backend", "reference", "--max-tokens", 128)
    assert "fitted to the workload: 3 buckets" in invoke(*given, "--workload", lengths).stderr
    shown = succeed("inspect", out)
    assert "tokens: 16, 32, 128" in shown and "ms:" not in shown
    succeed(*given, "--workload", lengths, "--max-buckets", 2, "--overwrite")
    assert "tokens: 32, 128" in succeed("inspect", out)
    failed = invoke(*given, "--max-buckets", 2, "--overwrite")
    assert failed.exit_code == 2 and "pass workload or remove max_buckets" in " ".join(failed.stderr.split())
    failed = invoke(*given, "--workload", tmp_path / "gone.json", "--overwrite")
    assert failed.exit_code == 2 and "WorkloadError" in failed.stderr
    shown = succeed("inspect", compiled)
    costs = json.loads(succeed("inspect", compiled, "--json"))["graphs"]["encode"]["costs"]
    assert "ms: " + ", ".join(f"{1000 * seconds:.3g}" for seconds in costs) in shown


def test_compile_prints_a_json_summary(tiny: TinyModels, tmp_path: Path) -> None:
    checkpoint, out = tiny["classify"].checkpoint, tmp_path / "a.precast"
    said = json.loads(
        succeed("compile", checkpoint, "-o", out, "--backend", "reference", "--no-verify", "--json")
    )
    assert said["parity"] is None and any("--no-verify" in note for note in said["notes"])
    assert "compile the graphs" in said["seconds"]


def test_an_encoder_decoder_is_compiled_and_inspected(tmp_path: Path) -> None:
    checkpoint, out = write_small("marian", tmp_path / "model"), tmp_path / "a.precast"
    limits = ("--max-target-length", 12, "--max-num-seqs", 6, "--max-length", 20)
    said = succeed("compile", checkpoint, "-o", out, "--backend", "reference", "--no-verify", *limits)
    assert "task generate" in said
    shown = succeed("inspect", out)
    assert "20 tokens per source, 12 positions per target, 6 sequences" in shown
    assert "decoder_start_token_id=2" in shown and "vocabulary 160" in shown
    assert "cross_key_0 … cross_value_1 [cross_cache, 2, 32] float32" in shown
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


def test_errors_are_printed_and_exit_with_status_2(tiny: TinyModels, tmp_path: Path) -> None:
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
def test_invalid_arguments_are_rejected(tiny: TinyModels, arguments: tuple[str, ...]) -> None:
    assert invoke("embed", tiny["embed"].artifact, *arguments).exit_code == 2


@dataclass(frozen=True)
class Options:
    """One field of every kind that an option can have."""

    model: str
    output: Path
    kind: Literal["a", "b"] | Literal["auto"] = field(default="auto", metadata={"help": "Kind of model."})
    size: int | None = field(default=None, metadata={"help": "Size of the model."})
    names: tuple[str, ...] | None = None
    verify: bool = True
    tune: bool | None = None
    level: Literal["low", "high"] | None = field(default=None, metadata={"help": "low, or high: slow."})

    def __post_init__(self) -> None:
        if self.size == 0:
            raise TaskError("size must be positive, found 0")


def options_app() -> tuple[typer.Typer, list[Options]]:
    """Return an app whose command takes the options of ``Options``, and the list of options it receives."""
    seen: list[Options] = []

    @options_from(Options, arguments=("model",))
    def command(make_options: Callable[[], Options], as_json: bool = False) -> None:
        """Do something."""
        with console.errors_as_exit(as_json):
            seen.append(make_options())

    options_only = typer.Typer()
    options_only.command()(command)
    return options_only, seen


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("m", "--output", "o"), Options("m", Path("o"))),
        (
            ("m", "-o", "o", "--kind", "b", "--size", "3", "--names", "x", "--names", "y", "--no-verify"),
            Options("m", Path("o"), kind="b", size=3, names=("x", "y"), verify=False),
        ),
        (("m", "-o", "o", "--tune", "--level", "low"), Options("m", Path("o"), tune=True, level="low")),
        (("m", "-o", "o", "--no-tune"), Options("m", Path("o"), tune=False)),
    ],
)
def test_options_come_from_the_fields_of_a_dataclass(arguments: tuple[str, ...], expected: Options) -> None:
    app, seen = options_app()
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    assert seen == [expected]


def test_the_help_of_an_option_is_that_of_its_field_with_the_values_it_accepts() -> None:
    app, _ = options_app()
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output.split())
    assert "Kind of model. One of a, b, auto." in shown and "Size of the model." in shown
    assert "low, or high: slow." in shown and "One of low" not in shown
    assert "--verify" in shown and "--no-verify" in shown and "--as-json" in shown


def test_an_error_of_the_dataclass_exits_with_status_2() -> None:
    app, seen = options_app()
    failed = CliRunner().invoke(app, ["m", "-o", "o", "--size", "0"])
    assert failed.exit_code == 2 and "size must be positive" in failed.stderr and not seen
    assert CliRunner().invoke(app, ["m"]).exit_code == 2, "output is required"


def test_compile_has_an_option_for_every_field() -> None:
    names = [entry.name for entry in fields(CompileOptions)]
    assert list(inspect.signature(compile_command).parameters) == [*names, "as_json"]


def test_libraries_are_quiet_while_a_model_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with console.quiet_libraries():
            warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="transformers.models.x")
            warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="torch.export")
            warnings.warn_explicit("ours", FutureWarning, "x.py", 1, module="precast.x")
            logging.get_logger("transformers.x").warning("a warning")
            assert not logging.is_progress_bar_enabled()
    assert [str(warning.message) for warning in seen] == ["ours"]
    assert "a warning" not in capsys.readouterr().err
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_version() -> None:
    assert succeed("--version").strip() == precast.__version__
