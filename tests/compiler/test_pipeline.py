"""The pipeline: tasks and limits, cached graphs, parity enforced, checkpoints of every kind read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, T5Config, T5EncoderModel
from transformers import pipeline as pipeline_of_transformers

import precast
from precast.artifacts.manifest import Manifest
from precast.compiler import pipeline
from precast.compiler.compile_graphs import compile_variant
from precast.compiler.errors import (
    CheckpointError,
    CompileError,
    ParityError,
    UnsupportedModelError,
    WeightValueError,
)
from precast.compiler.families.registry import family_of
from precast.compiler.graph import GraphSpec, variants
from precast.compiler.lowering.backend import CompiledFile
from precast.compiler.lowering.reference import reference
from precast.compiler.options import CompileOptions
from precast.compiler.sampling.greedy import Greedy
from precast.compiler.verify import oracle
from precast.graphs.encode import EncodeLimits, Task
from precast.graphs.generation import generation_buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import greedy_signature
from precast.graphs.seq2seq import GenerateLimits
from tests.support.artifacts import TASKS, TinyModels, tiny_artifact, tiny_checkpoint, tiny_config
from tests.support.models import save


def compile_tiny(checkpoint: Path, out: Path, **options: object) -> Manifest:
    return precast.compile(checkpoint, out, backend="reference", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_read_from_the_checkpoint(tiny: TinyModels, tmp_path: Path, task: Task) -> None:
    assert compile_tiny(tiny[task].checkpoint, tmp_path / "a").model.task == task


def test_a_second_compile_takes_the_graph_from_the_cache(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))

    def run(name: str, **options: object) -> bool:
        given = CompileOptions(
            str(tiny["embed"].checkpoint),
            tmp_path / name,
            backend="reference",
            **options,  # type: ignore[arg-type]
        )
        return pipeline.run(given).from_cache

    assert not run("first") and run("second")
    assert not run("another length", max_length=16)
    assert not run("another dtype", dtype="bf16")
    for path in (tmp_path / "cache").rglob("graph.json"):
        path.write_text("{}", "utf-8")
    assert not run("damaged"), "a damaged entry must be made again"
    assert (tmp_path / "first" / "manifest.json").read_bytes() == (
        tmp_path / "second" / "manifest.json"
    ).read_bytes()


def test_an_entry_that_another_process_made_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be copying from there."""
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    limits, plain = GenerateLimits(8, 8, 8, 2, 4), reference()
    buckets = generation_buckets(GraphName.SAMPLE_GREEDY, limits, "cpu")
    (variant,) = variants(GraphSpec(Greedy(), greedy_signature(), buckets, 4), plain)
    others: list[Path] = []
    inodes: list[int] = []

    def slowly(*arguments: Any) -> CompiledFile:
        others.append(compile_variant(variant, plain).compiled.path)
        inodes.append(others[0].stat().st_ino)
        return plain.compile(*arguments)

    made = compile_variant(variant, replace(plain, compile=slowly))
    path = made.compiled.path
    assert not made.from_cache and path == others[0] and path.stat().st_ino == inodes[0]
    assert not [path for path in (tmp_path / "cache").rglob(".partial-*")]


def test_limits_come_from_the_checkpoint_unless_given(tiny: TinyModels, tmp_path: Path) -> None:
    checkpoint = tiny["hidden"].checkpoint
    stated = compile_tiny(checkpoint, tmp_path / "a").limits
    assert stated == EncodeLimits(max_length=32, max_tokens=16_384, max_batch=512), "the tokenizer says 32"
    longer = compile_tiny(checkpoint, tmp_path / "b", max_length=64, max_tokens=70, max_batch=3)
    assert longer.limits == EncodeLimits(64, 70, 3)
    assert longer.graphs[GraphName.ENCODE].buckets.sizes == (16, 32, 64, 70)
    with pytest.raises(CompileError, match="beyond the 64 positions"):
        compile_tiny(checkpoint, tmp_path / "c", max_length=65)
    with pytest.raises(CompileError, match="no room for a text: the tokenizer adds 2"):
        compile_tiny(checkpoint, tmp_path / "c", max_length=2)
    with pytest.raises(CompileError, match="max_tokens 8 does not hold"):
        compile_tiny(checkpoint, tmp_path / "c", max_tokens=8)


@pytest.mark.parametrize("limits", [{"max_length": 3}, {"max_batch": 1}, {"max_length": 3, "max_tokens": 3}])
def test_the_smallest_limits_still_serve(tiny: TinyModels, tmp_path: Path, limits: dict[str, int]) -> None:
    compile_tiny(tiny["embed"].checkpoint, tmp_path / "a", **limits)
    with (
        precast.Encoder.load(tmp_path / "a") as small,
        precast.Encoder.load(tiny["embed"].artifact) as engine,
    ):
        np.testing.assert_allclose(small.embed([[7], [9], [11]]), engine.embed([[7], [9], [11]]), atol=1e-5)


def test_an_artifact_that_disagrees_is_not_written(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_output = oracle.Oracle._output
    monkeypatch.setattr(oracle.Oracle, "_output", lambda self, ids: true_output(self, ids) + 0.01)
    with pytest.raises(ParityError, match="the outputs differ from transformers"):
        compile_tiny(tiny["hidden"].checkpoint, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    compile_tiny(tiny["hidden"].checkpoint, tmp_path / "a", verify=False)


def test_bf16_is_checked_too(tiny: TinyModels, tmp_path: Path) -> None:
    manifest = compile_tiny(tiny["embed"].checkpoint, tmp_path / "a", dtype="bf16")
    assert manifest.parity is not None and manifest.parity.min_cosine >= 0.999
    stored = load_file(tmp_path / "a" / "weights.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name.endswith("weight")} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        (None, 1),
        (None, 3),
        ("regression", 1),
        ("regression", 3),
        ("single_label_classification", 3),
        ("multi_label_classification", 1),
        ("multi_label_classification", 3),
    ],
)
def test_scores_follow_the_problem_type(tmp_path: Path, problem: str | None, labels: int) -> None:
    config = tiny_config(labels=labels, problem_type=problem)
    checkpoint = tiny_checkpoint("classify", tmp_path / "model", config=config)
    theirs = pipeline_of_transformers("text-classification", str(checkpoint), device="cpu")
    compile_tiny(checkpoint, tmp_path / "a")
    with precast.Encoder.load(tmp_path / "a") as engine:
        found = engine.classify("the cat sat", top_k=None)
    expected = theirs("the cat sat", top_k=None)
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-5)


def test_pooling_may_be_replaced(tiny: TinyModels, tmp_path: Path) -> None:
    manifest = compile_tiny(tiny["embed"].checkpoint, tmp_path / "a", pooling="cls")
    assert manifest.output.kind == "embed" and manifest.output.pooling == ("cls",)


def test_a_checkpoint_without_a_tokenizer_takes_ids(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("embed", tmp_path / "model", tokenizer=False)
    artifact = tiny_artifact(checkpoint, tmp_path / "a")
    with precast.Encoder.load(artifact) as engine:
        assert engine.embed([[5, 6]]).shape == (1, 16)
        with pytest.raises(precast.runtime.errors.TokenizationError, match="pass token ids"):
            engine.embed("the cat")
        assert any("no tokenizer" in note for note in engine.manifest.notes)


def test_left_out_weights_are_named(tmp_path: Path) -> None:
    save(BertForMaskedLM(tiny_config()), tmp_path / "model")
    manifest = compile_tiny(tmp_path / "model", tmp_path / "a", task="hidden")
    assert any("cls.predictions" in note for note in manifest.notes)


def test_shards_and_pickles_are_read(tiny: TinyModels, tmp_path: Path) -> None:
    source = tiny["hidden"].checkpoint
    expected = compile_tiny(source, tmp_path / "whole").files["weights.safetensors"]
    weights = load_file(source / "model.safetensors")
    names = sorted(weights)
    for kind in ("shards", "pickle"):
        folder = tmp_path / kind
        shutil.copytree(source, folder)
        (folder / "model.safetensors").unlink()
        if kind == "pickle":
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
            for file, part in parts.items():
                save_file({name: weights[name] for name in part}, folder / file)
            where = {name: file for file, part in parts.items() for name in part}
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"metadata": {}, "weight_map": where}), "utf-8"
            )
        assert compile_tiny(folder, tmp_path / f"{kind}-a").files["weights.safetensors"] == expected
    (tmp_path / "shards" / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="b.safetensors"):
        compile_tiny(tmp_path / "shards", tmp_path / "c")


def test_weights_that_are_not_finite_are_named(tiny: TinyModels, tmp_path: Path) -> None:
    shutil.copytree(tiny["hidden"].checkpoint, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][3, 3] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightValueError, match="embeddings.tokens.weight.*NaN"):
        compile_tiny(tmp_path / "model", tmp_path / "a")


def test_what_is_no_checkpoint_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no config.json"):
        compile_tiny(tmp_path / "empty", tmp_path / "a")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")
    with pytest.raises(UnsupportedModelError, match="gpt2.*supported are.*bert"):
        compile_tiny(tmp_path / "empty", tmp_path / "a")
    (tmp_path / "empty" / "config.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError):
        compile_tiny(tmp_path / "empty", tmp_path / "a")


def test_a_hub_id_is_fetched(tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        if name != "somebody/tiny":
            raise OSError("no such repository")
        return str(tiny["embed"].checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    manifest = precast.compile("somebody/tiny", tmp_path / "a", backend="reference", revision="v2")
    assert asked == [("somebody/tiny", "v2")] and manifest.model.name == "somebody/tiny"
    with pytest.raises(CheckpointError, match="not a local directory and could not be downloaded"):
        precast.compile("somebody/else", tmp_path / "b", backend="reference")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "CUDA build of torch|needs a GPU"),
        ({"device": "cuda:0"}, "cuda:sm_90, found 'cuda:0'"),
        ({"device": "cuda:sm_90"}, "--no-verify"),
        ({"device": "cuda", "backend": "reference"}, "reference on cpu; found 'reference' on cuda"),
        ({"dtype": "fp16"}, "expects dtype fp32 or bf16, found fp16"),
    ],
)
def test_what_a_device_cannot_do_is_refused(
    tiny: TinyModels, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        precast.compile(tiny["embed"].checkpoint, tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("model_type", ["t5", "gemma3_text"])
def test_families_that_overflow_fp16_say_so(model_type: str, tmp_path: Path) -> None:
    assert family_of(model_type).overflows_fp16
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    save(T5EncoderModel(config), tmp_path / "t5")
    options = {"device": "cuda:sm_90", "dtype": "fp16", "verify": False}
    with pytest.raises(CompileError, match="t5 overflows in fp16; choose bf16"):
        precast.compile(tmp_path / "t5", tmp_path / "a", **options)  # type: ignore[arg-type]
