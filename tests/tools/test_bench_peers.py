"""The outputs of every peer of ``precast bench`` for padded batches equal those of Hugging Face."""

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
from precast.tools.bench.peers.contender import Contender, Subject
from precast.tools.bench.peers.hf_model import pool
from precast.tools.bench.peers.hugging_face import encoder_engine
from precast.tools.bench.peers.padded import PaddedEngine, padded, padding_waste
from precast.tools.bench.peers.registry import PEERS, gather
from precast.tools.bench.peers.work import EmbedIds, EmbedTexts, PeakMemory, Tokenize, served
from tests.support.artifacts import TinyModels

# Exporting to ONNX: both inputs have the same axes.
pytestmark = pytest.mark.filterwarnings("ignore:# The axis name. .* will not be used")

MIN_COSINES = {"fp32": 0.9999, "bf16": 0.995, "int8": 0.98}
TEXTS = ["the cat sat on the cat", "a", "sat . the"]
SubjectOf = Callable[[Task], Subject]


@pytest.fixture(scope="module")
def subject_of(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> SubjectOf:
    """Return a function that describes the model of a task; all tests share its converted models."""
    folder = tmp_path_factory.mktemp("converted")

    def make(task: Task) -> Subject:
        model = str(tiny[task].checkpoint)
        return describe(open_artifacts([tiny[task].artifact], model), model, 1, folder / task)

    return make


def ragged(rng: np.random.Generator, batch: int, longest: int) -> list[list[int]]:
    lengths = [longest, *rng.integers(1, longest + 1, batch - 1)]
    return [rng.integers(5, 61, length).tolist() for length in lengths]


def contenders(subject: Subject, *peers: str) -> list[Contender]:
    """Return the prepared contenders of the peers that are installed."""
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
def test_outputs_for_padded_batches_equal_those_of_hugging_face_for_single_inputs(
    subject_of: SubjectOf, task: Task, peers: tuple[str, ...]
) -> None:
    subject, rng = subject_of(task), np.random.default_rng(0)
    oracle = encoder_engine(subject, "fp32")
    for one in contenders(subject, *peers):
        engine = one.make()
        for batch, longest in ((1, 1), (1, 7), (2, 9), (5, 32), (9, 4)):
            ids = ragged(rng, batch, longest)
            wanted = np.concatenate([oracle.embed_ids([alone]) for alone in ids])
            found = engine.embed_ids(ids)
            assert found.shape == wanted.shape and found.dtype == np.float32
            assert min_cosine(found, wanted) > MIN_COSINES[one.precision], f"{one.name}, {batch} of {longest}"
        wanted = np.concatenate([oracle.embed([text]) for text in TEXTS])
        assert min_cosine(engine.embed(TEXTS), wanted) > MIN_COSINES[one.precision], one.name
        assert engine.tokenize(TEXTS) == oracle.tokenize(TEXTS), one.name


def test_logits_are_those_of_hugging_face(subject_of: SubjectOf) -> None:
    subject, rng = subject_of("classify"), np.random.default_rng(1)
    oracle = encoder_engine(subject, "fp32")
    ids = ragged(rng, 5, 11)
    wanted = np.concatenate([oracle.embed_ids([alone]) for alone in ids])
    allowed = {"fp32": 1e-4, "bf16": 0.2, "int8": 0.3}
    for one in contenders(subject, "hf", "onnxruntime"):
        np.testing.assert_allclose(
            one.make().embed_ids(ids), wanted, atol=allowed[one.precision], err_msg=one.name
        )


def test_a_compiled_module_takes_any_batch(subject_of: SubjectOf) -> None:
    """With the eager backend: Inductor takes half a minute and is torch's to test."""
    subject, rng = subject_of("embed"), np.random.default_rng(2)
    oracle = encoder_engine(subject, "fp32")
    engine = encoder_engine(subject, "fp32", "eager")
    for batch, longest in ((3, 7), (1, 5), (4, 12)):
        ids = ragged(rng, batch, longest)
        np.testing.assert_allclose(engine.embed_ids(ids), oracle.embed_ids(ids), atol=1e-5)


def test_an_export_without_the_mask_is_rejected(
    subject_of: SubjectOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unmasked(exporting.HuggingFaceModel):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            exports = torch.compiler.is_exporting()
            return super().forward(input_ids, attention_mask * 0 + 1 if exports else attention_mask)

    monkeypatch.setattr(exporting, "HuggingFaceModel", Unmasked)
    with pytest.raises(RuntimeError, match="outputs for padded batches differ"):
        exporting.exported(subject_of("embed"))


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_pooling_ignores_padding(mode: str) -> None:
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = pool(mode, hidden, mask)
    torch.testing.assert_close(found[1], pool(mode, hidden[1:, :2], mask[1:, :2])[0])
    torch.testing.assert_close(found[0], pool(mode, hidden[:1], mask[:1])[0])


def test_peers_that_are_missing_or_do_not_support_the_task_are_named(
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
    assert any("has mean pooling, the artifact max" in one.reason for one in skipped)


def test_work_runs_in_batches(subject_of: SubjectOf) -> None:
    subject = subject_of("embed")
    run = served(partial(encoder_engine, subject, "fp32"), 1)
    ids = ragged(np.random.default_rng(3), 4, 6)
    one_batch = run(EmbedIds((ids,)))
    np.testing.assert_allclose(run(EmbedIds((ids[:3], ids[3:]))), one_batch, atol=1e-6)
    np.testing.assert_allclose(run(EmbedTexts((TEXTS[:1], TEXTS[1:]))), run(EmbedTexts((TEXTS,))), atol=1e-6)
    assert run(Tokenize(["a", "the cat"])) == [3, 4]
    assert sys.platform != "linux" or run(PeakMemory()) > 1e6


def test_padding_overhead_is_counted() -> None:
    assert padding_waste([1, 3, 2, 2], 2) == (6 + 4) / 8
    assert padding_waste([4, 4, 4], 2) == 1.0
    ids, mask = padded([[7], [8, 9]], 5)
    assert ids.tolist() == [[7, 5], [8, 9]] and mask.tolist() == [[1, 0], [1, 1]]


def test_the_subject_follows_the_manifest(subject_of: SubjectOf, tiny: TinyModels) -> None:
    subject, manifest = subject_of("embed"), read_manifest(tiny["embed"].artifact)
    assert isinstance(manifest.output, EmbedInfo)
    assert (subject.pooling, subject.normalize) == (manifest.output.pooling, manifest.output.normalize)
    assert subject.max_length == 32 and subject.tokenizer is not None and subject.tokenizer.is_file()
    assert isinstance(encoder_engine(subject, "fp32"), PaddedEngine)


def test_importing_peers_imports_nothing_heavy() -> None:
    """New processes import them before the imports of their contender are timed."""
    script = (
        "import precast.tools.bench.fresh, precast.tools.bench.peers.registry, sys\n"
        "import precast.tools.bench.peers.precast_artifact\n"
        "print([n for n in ('torch', 'numpy', 'transformers', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert Path(registry.__file__).parent.name == "peers"
