"""``precast generate``, as a user types it, over a tiny T5 with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import precast
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput, Timings
from precast.tools.synthetic import Training, write_dates_model
from tests.support.artifacts import TinyModels
from tests.tools.test_cli import invoke, succeed

TEXTS = ["March 4, 2021", "04/03/2021"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a few steps: it outputs_of badly, but not always the same."""
    folder = tmp_path_factory.mktemp("generate")
    checkpoint = write_dates_model("t5", folder / "checkpoint", Training(steps=30, batch=32))
    precast.compile(
        checkpoint,
        folder / "t5.precast",
        backend="reference",
        verify=False,
        max_target_length=16,
        max_num_seqs=8,
        max_length=32,
    )
    return folder / "t5.precast"


def outputs_of(artifact: Path, **options: Any) -> list[Any]:
    with precast.Seq2Seq.load(artifact) as engine:
        found: list[Any] = engine.generate(TEXTS, **options)
    return found


def records(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(succeed("generate", *arguments, "--json"))
    return found


def token_ids(found: list[dict[str, Any]]) -> list[list[list[int]]]:
    return [[one["token_ids"] for one in record["sequences"]] for record in found]


def test_texts_come_from_arguments_a_file_or_standard_input(artifact: Path, tmp_path: Path) -> None:
    expected = "".join(f"{output.text}\n" for output in outputs_of(artifact, max_new_tokens=8))
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    for arguments, text in (
        (tuple(TEXTS), None),
        (("--input", tmp_path / "in.txt"), None),
        ((), "\n".join(TEXTS)),
    ):
        assert succeed("generate", artifact, *arguments, "--max-new-tokens", 8, text=text) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "max_new_tokens": 7},
        {"num_beams": 2, "early_stopping": True, "max_new_tokens": 9},
        {"num_beams": 2, "early_stopping": "never", "max_new_tokens": 9},
        {"do_sample": True, "temperature": 1.7, "top_k": 9, "top_p": 0.9, "seed": 5, "max_new_tokens": 9},
        {"do_sample": True, "top_k": 0, "seed": 6, "num_return_sequences": 3, "max_new_tokens": 9},
        {"no_repeat_ngram_size": 1, "min_new_tokens": 6, "max_new_tokens": 8},
        {"repetition_penalty": 9.0, "target_prefix": "20", "max_new_tokens": 8},
    ],
)
def test_every_option_reaches_the_engine(artifact: Path, options: dict[str, Any]) -> None:
    given: list[object] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        said = str(value).lower() if name == "early_stopping" else value
        given += [flag] if name == "do_sample" else [flag, said]
    outputs = outputs_of(artifact, **options)
    expected = [[sequence.token_ids.tolist() for sequence in output.sequences] for output in outputs]
    assert token_ids(records(artifact, *TEXTS, *given)) == expected
    plain = outputs_of(artifact, max_new_tokens=options["max_new_tokens"])
    assert expected != [[one.token_ids.tolist() for one in each.sequences] for each in plain]


class Recorder:
    """An engine that records the options of its calls."""

    manifest = SimpleNamespace(model=SimpleNamespace(task="generate"))

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def generate(self, texts: list[str], **options: Any) -> list[Any]:
        self.options = options
        one = GeneratedSequence(np.array([0]), "", 0.0, np.array([]), "stop", 1)
        return [GenerateOutput(np.array([1]), (one,), False, Timings(0, 0, 0)) for _ in texts]


def test_the_engine_gets_what_was_said_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Recorder()
    monkeypatch.setattr(precast.Seq2Seq, "load", lambda path: engine)
    succeed("generate", "any", "a")
    assert engine.options == {"timeout": None, "truncate": True}
    said: dict[str, Any] = {
        "num_beams": 2, "max_new_tokens": 3, "min_new_tokens": 4, "temperature": 0.5, "top_k": 6,
        "top_p": 0.7, "seed": 8, "length_penalty": 0.9, "early_stopping": "never",
        "no_repeat_ngram_size": 10, "repetition_penalty": 1.1, "num_return_sequences": 12, "src_lang": "a",
        "tgt_lang": "b", "target_prefix": "c", "timeout": 1.3,
    }  # fmt: skip
    arguments = [part for name, value in said.items() for part in ("--" + name.replace("_", "-"), value)]
    rest = ("--no-do-sample", "--no-truncate", "--set", "top_h=null", "--set", "bad_words_ids=[[1]]")
    succeed("generate", "any", "a", *arguments, *rest)
    assert engine.options == said | {
        "do_sample": False, "truncate": False, "top_h": None, "bad_words_ids": [[1]]
    }  # fmt: skip
    succeed("generate", "any", "a", "--early-stopping", "true", "--set", 'truncate="left"')
    assert engine.options == {"timeout": None, "early_stopping": True, "truncate": "left"}


def test_set_reaches_every_other_parameter(artifact: Path) -> None:
    plain = token_ids(records(artifact, *TEXTS, "--max-new-tokens", 6))
    banned = plain[0][0][1]
    found = token_ids(
        records(artifact, *TEXTS, "--set", "max_new_tokens=6", "--set", f"suppress_tokens=[{banned}]")
    )
    assert found != plain and banned not in found[0][0]


def test_json_says_all_of_an_answer(artifact: Path, tmp_path: Path) -> None:
    (expected, _) = outputs_of(artifact, num_beams=2, max_new_tokens=6)
    (record,) = records(artifact, TEXTS[0], "--num-beams", 2, "--max-new-tokens", 6, "--logprobs")
    (sequence,) = record["sequences"]
    assert record["source"] == TEXTS[0] and record["truncated"] is False
    assert 0 <= record["timings"]["scheduled"] <= record["timings"]["finished"]
    assert sequence["text"] == expected.text and sequence["finish_reason"] == expected.finish_reason
    assert sequence["score"] == pytest.approx(expected.score, abs=1e-5)
    assert sequence["logprobs"] == pytest.approx(expected.sequences[0].logprobs.tolist(), abs=1e-5)
    path = tmp_path / "out.jsonl"
    succeed("generate", artifact, *TEXTS, "--max-new-tokens", 6, "-o", path)
    written = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["source"] for line in written] == TEXTS and "logprobs" not in written[0]["sequences"][0]


def test_several_answers_are_shown_with_their_scores(artifact: Path) -> None:
    options = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 6}
    shown = succeed("generate", artifact, *TEXTS, "--num-beams", 2, "--num-return-sequences", 2,
                    "--max-new-tokens", 6)  # fmt: skip
    for output in outputs_of(artifact, **options):
        assert all(f"{one.score:.4f}" in shown and str(one.text) in shown for one in output.sequences)


def test_a_stream_is_the_answer(artifact: Path) -> None:
    expected = outputs_of(artifact, max_new_tokens=10)[0].text
    assert succeed("generate", artifact, TEXTS[0], "--stream", "--max-new-tokens", 10) == f"{expected}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "b", "--stream"), "one text, found 2"),
        (("a", "--stream", "--json"), "goes without"),
        (("a", "--early-stopping", "maybe"), "true, false or never"),
        (("a", "--set", "top_k"), "NAME=JSON"),
        (("a", "--set", "top_k=}"), "is no JSON"),
        (("a", "--set", "timeout=1"), "cannot set timeout"),
        (("a", "--top-k", 3, "--set", "top_k=4"), "cannot set top_k"),
        (("a", "--set", "top_h=1", "--set", "top_h=2"), "cannot set top_h"),
        (("a", "--set", "no_such=1"), "no_such is no parameter"),
        (("a", "--num-beams", 2, "--do-sample"), "OptionError"),
        (("a", "--num-beams", 2, "--stream"), "OptionError"),
        (("a", "--max-new-tokens", 500), "OptionError"),
        (("a", "--timeout", 0), "RequestTimeoutError"),
        (("a", "--tgt-lang", "fr"), "OptionError"),
        (("a", "--src-lang", "fr"), "OptionError"),
    ],
)
def test_what_cannot_be_done_is_refused(artifact: Path, arguments: tuple[object, ...], said: str) -> None:
    failed = invoke("generate", artifact, *arguments)
    assert failed.exit_code == 2
    assert said in " ".join(failed.stderr.replace("│", " ").split())


def test_an_encoder_does_not_generate(tiny: TinyModels) -> None:
    failed = invoke("generate", tiny["embed"].artifact, "a", "--json")
    assert failed.exit_code == 2 and json.loads(failed.stdout)["error"]["type"] == "TaskError"
