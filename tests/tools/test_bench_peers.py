"""Every peer of ``precast bench`` answers padded batches of any size as Hugging Face does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from precast.artifacts.manifest import EmbedInfo
from precast.artifacts.reader import read_manifest
from precast.graphs.encode import Task
from precast.tools.bench.comparison import describe, open_artifacts
from precast.tools.bench.peers import exporting, registry
from precast.tools.bench.peers.hf_model import pool
from precast.tools.bench.peers.contender import Contender, Subject
from precast.tools.bench.peers.hugging_face import encoder_engine
from precast.tools.bench.peers.padded import PaddedEngine, padded, padding_waste
from precast.tools.bench.peers.registry import PEERS, gather
from precast.tools.bench.peers.work import EmbedIds, EmbedTexts, PeakMemory, Tokenize, served
from tests.support.artifacts import TinyModels

MIN_SECONDS = {"fp32": 0.9999, "bf16": 0.995, "int8": 0.98}
TEXTS = ["the cat sat on the cat", "a", "sat . the"]
SubjectOf = Callable[[Task], Subject]


@pytest.fixture(scope="module")
def subject_of(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> SubjectOf:
    """The subject of a task; what is converted for one test serves the next."""
    folder = tmp_path_factory.mktemp("converted")

    def make(task: Task) -> Subject:
        model = str(tiny[task].checkpoint)
        return describe(open_artifacts([tiny[task].artifact], model), model, 1, folder / task)

    return make


def ragged(draw: np.random.Generator, batch: int, longest: int) -> list[list[int]]:
    lengths = [longest, *draw.integers(1, longest + 1, batch - 1)]
    return [draw.integers(5, 61, length).tolist() for length in lengths]


def contenders(subject: Subject, *peers: str) -> list[Contender]:
    """Prepared ones, of peers that are installed."""
    found, _ = gather(peers, subject)
    for one in found:
        if one.prepare is not None:
            one.prepare()
    return found


def min_cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    return float(((found * wanted).sum(-1) / lengths).min())


ENCODERS = ("hf", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")


@pytest.mark.parametrize(("task", "peers"), [("embed", ENCODERS), ("hidden", ("hf", "ctranslate2"))])
def test_peers_answer_padded_batches_as_hugging_face_answers_inputs_alone(
    subject_of: SubjectOf, task: Task, peers: tuple[str, ...]
) -> None:
    subject, draw = subject_of(task), np.random.default_rng(0)
    oracle = encoder_engine(subject, "fp32")
    for one in contenders(subject, *peers):
        engine = one.make()
        for batch, longest in ((1, 1), (1, 7), (2, 9), (5, 32), (9, 4)):
            ids = ragged(draw, batch, longest)
            wanted = np.concatenate([oracle.embed_ids([alone]) for alone in ids])
            found = engine.embed_ids(ids)
            assert found.shape == wanted.shape and found.dtype == np.float32
            assert min_cosine(found, wanted) > MIN_SECONDS[one.precision], f"{one.name}, {batch} of {longest}"
        wanted = np.concatenate([oracle.embed([text]) for text in TEXTS])
        assert min_cosine(engine.embed(TEXTS), wanted) > MIN_SECONDS[one.precision], one.name
        assert engine.tokenize(TEXTS) == oracle.tokenize(TEXTS), one.name


def test_logits_are_those_of_hugging_face(subject_of: SubjectOf) -> None:
    subject, draw = subject_of("classify"), np.random.default_rng(1)
    oracle = encoder_engine(subject, "fp32")
    ids = ragged(draw, 5, 11)
    wanted = np.concatenate([oracle.embed_ids([alone]) for alone in ids])
    allowed = {"fp32": 1e-4, "bf16": 0.2, "int8": 0.3}
    for one in contenders(subject, "hf", "onnxruntime"):
        np.testing.assert_allclose(
            one.make().embed_ids(ids), wanted, atol=allowed[one.precision], err_msg=one.name
        )


def test_a_compiled_module_takes_any_batch(subject_of: SubjectOf) -> None:
    """By Dynamo alone: what Inductor makes of it takes half a minute and is torch's to test."""
    subject, draw = subject_of("embed"), np.random.default_rng(2)
    oracle = encoder_engine(subject, "fp32")
    engine = encoder_engine(subject, "fp32", "eager")
    for batch, longest in ((3, 7), (1, 5), (4, 12)):
        ids = ragged(draw, batch, longest)
        np.testing.assert_allclose(engine.embed_ids(ids), oracle.embed_ids(ids), atol=1e-5)


def test_an_export_that_forgot_the_mask_is_refused(
    subject_of: SubjectOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(exporting.HuggingFaceModel):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            exports = torch.compiler.is_exporting()
            return super().forward(input_ids, attention_mask * 0 + 1 if exports else attention_mask)

    monkeypatch.setattr(exporting, "HuggingFaceModel", Forgetful)
    with pytest.raises(RuntimeError, match="does not answer padded batches"):
        exporting.exported(subject_of("embed"))


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_pooling_does_not_see_padding(mode: str) -> None:
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = pool(mode, hidden, mask)
    torch.testing.assert_close(found[1], pool(mode, hidden[1:, :2], mask[1:, :2])[0])
    torch.testing.assert_close(found[0], pool(mode, hidden[:1], mask[:1])[0])


def test_peers_that_are_absent_or_cannot_do_the_task_are_named(
    subject_of: SubjectOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = registry.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "openvino" else found(name))
    entered, skipped = gather(tuple(PEERS), subject_of("classify"))
    reasons = {one.name: one.reason for one in skipped}
    assert "openvino not installed: pip install 'precast[bench]'" in reasons["openvino"]
    assert reasons["sentence-transformers"] == "it embeds texts, the task is classify"
    assert "no head" in reasons["ctranslate2"]
    assert {one.peer for one in entered} == set(PEERS) - set(reasons)
    _, skipped = gather(tuple(PEERS), replace(subject_of("embed"), pooling=("max",)))
    assert any("pools by mean, the artifact by max" in one.reason for one in skipped)


def test_work_runs_in_batches(subject_of: SubjectOf) -> None:
    subject = subject_of("embed")
    ask = served(partial(encoder_engine, subject, "fp32"), 1)
    ids = ragged(np.random.default_rng(3), 4, 6)
    together = ask(EmbedIds((ids,)))
    np.testing.assert_allclose(ask(EmbedIds((ids[:3], ids[3:]))), together, atol=1e-6)
    np.testing.assert_allclose(ask(EmbedTexts((TEXTS[:1], TEXTS[1:]))), ask(EmbedTexts((TEXTS,))), atol=1e-6)
    assert ask(Tokenize(["a", "the cat"])) == [3, 4]
    assert sys.platform != "linux" or ask(PeakMemory()) > 1e6


def test_padding_is_counted() -> None:
    assert padding_waste([1, 3, 2, 2], 2) == (6 + 4) / 8
    assert padding_waste([4, 4, 4], 2) == 1.0
    ids, mask = padded([[7], [8, 9]], 5)
    assert ids.tolist() == [[7, 5], [8, 9]] and mask.tolist() == [[1, 0], [1, 1]]


def test_the_subject_is_what_the_artifact_says(subject_of: SubjectOf, tiny: TinyModels) -> None:
    subject, manifest = subject_of("embed"), read_manifest(tiny["embed"].artifact)
    assert isinstance(manifest.output, EmbedInfo)
    assert (subject.pooling, subject.normalize) == (manifest.output.pooling, manifest.output.normalize)
    assert subject.max_length == 32 and subject.tokenizer is not None and subject.tokenizer.is_file()
    assert isinstance(encoder_engine(subject, "fp32"), PaddedEngine)


def test_importing_peers_imports_nothing_heavy() -> None:
    """Fresh processes import them before the clock of their own packages runs."""
    script = (
        "import precast.tools.bench.fresh, precast.tools.bench.peers.registry, sys\n"
        "import precast.tools.bench.peers.precast_artifact\n"
        "print([n for n in ('torch', 'numpy', 'transformers', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert Path(registry.__file__).parent.name == "peers"
