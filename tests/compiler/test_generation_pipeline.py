"""Encoder-decoders through the pipeline: six graphs, one weights file, limits, and shared graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BartConfig, BartModel, T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Model

import precast
from precast.artifacts.manifest import GenerateInfo, Manifest
from precast.artifacts.reader import read_manifest
from precast.compiler import pipeline
from precast.compiler.errors import CompileError, UnsupportedModelError
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.options import CompileOptions
from precast.compiler.pipeline import read_source
from precast.compiler.targets.registry import lowering_options, select_target
from precast.compiler.tasks.registry import TASKS, detect_task
from precast.graphs.encode import EncodeLimits
from precast.graphs.generation import BUCKET_AXES
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits, KVCacheShape
from precast.runtime.backends.graph_loader import open_graph, open_graphs
from precast.runtime.graph_checks import check_generation_graphs
from precast.tools.models import write_small
from tests.support.artifacts import tiny_checkpoint
from tests.support.models import save

VOCAB = 47
SMALL: dict[str, Any] = {
    "max_length": 20,
    "max_target_length": 12,
    "max_tokens": 64,
    "max_batch": 4,
    "max_num_seqs": 6,
}


def t5(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 1,
    tied: bool = True,
    vocab_size: int = VOCAB,
    **generation: Any,
) -> Path:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=layers,
        num_heads=2,
        decoder_start_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    return save(model, folder)


def compile_small(checkpoint: Path, out: Path, **options: Any) -> Manifest:
    return precast.compile(checkpoint, out, **{"backend": "reference", "verify": False, **options})


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
def test_six_graphs_share_one_weights_file(family: str, tmp_path: Path) -> None:
    checkpoint = t5(tmp_path / "model") if family == "t5" else write_small(family, tmp_path / "model")
    written = compile_small(checkpoint, tmp_path / "a", **SMALL)
    manifest = read_manifest(tmp_path / "a")
    assert manifest == written and manifest.model.task == "generate"
    assert list(manifest.graphs) == list(BUCKET_AXES)
    assert manifest.limits == GenerateLimits(20, 12, 64, 4, 6)
    for name, graph in manifest.graphs.items():
        (variant,) = graph.variants
        assert variant.file == f"graphs/{name}.json" and (tmp_path / "a" / variant.file).is_file()
        assert graph.buckets.axis == BUCKET_AXES[name]
        assert variant.max_size == graph.buckets.top == (64 if name == "encode_source" else 6)
        assert graph.buckets.sizes[0] == (16 if name == "encode_source" else 1)
        assert variant.tuned_at <= variant.max_size
        assert bool(graph.constants) is (name in ("encode_source", "decode"))
        assert graph.weights == "bound"
    assert isinstance(manifest.output, GenerateInfo)
    check_generation_graphs(manifest)


def test_the_manifest_describes_kv_caches_and_defaults(tmp_path: Path) -> None:
    checkpoint = t5(tmp_path / "model", layers=1, num_beams=3, bad_words_ids=[[5, 6]])
    output = compile_small(checkpoint, tmp_path / "a", dtype="bf16").output
    assert isinstance(output, GenerateInfo)
    shape = KVCacheShape(layers=1, heads=2, head_dim=8, dtype="bfloat16")
    assert (output.self_kv, output.cross_kv) == (shape, shape)
    assert (output.size, output.vocab_size) == (16, VOCAB)
    assert (output.defaults.num_beams, output.defaults.bad_words_ids) == (3, ((5, 6),))


@pytest.mark.parametrize("tied", [True, False])
def test_a_shared_table_is_stored_once(tied: bool, tmp_path: Path) -> None:
    """Encoder, decoder and a tied head read the same table."""
    compile_small(t5(tmp_path / "model", tied=tied), tmp_path / "a", **SMALL)
    stored = load_file(tmp_path / "a" / "weights.safetensors")
    tables = [name for name, tensor in stored.items() if tensor.shape == (VOCAB, 16)]
    source = load_file(tmp_path / "model" / "model.safetensors")
    distinct = {tensor.numpy().tobytes() for tensor in source.values() if tensor.shape == (VOCAB, 16)}
    assert len(tables) == len({stored[name].numpy().tobytes() for name in tables}) == len(distinct)


def test_graphs_open_one_by_one_or_all_with_the_weights_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from precast.runtime.backends import graph_loader

    manifest = compile_small(t5(tmp_path / "model"), tmp_path / "a", **SMALL)
    reads: list[Path] = []
    read = graph_loader.read_weights

    def counted(path: Path) -> dict[str, torch.Tensor]:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(graph_loader, "read_weights", counted)
    graphs = open_graphs(tmp_path / "a", manifest)
    assert list(graphs) == list(BUCKET_AXES) and len(reads) == 1
    seq_ids = torch.tensor([1, 3], dtype=torch.int32)
    signature = manifest.graphs[GraphName.SAMPLE_GREEDY].signature
    for graph in (
        graphs[GraphName.SAMPLE_GREEDY],
        open_graph(tmp_path / "a", manifest, GraphName.SAMPLE_GREEDY),
    ):
        assert isinstance(manifest.limits, GenerateLimits)
        sizes = manifest.limits.state_sizes | {"vocab_size": VOCAB, "num_seqs": 3, "sampled_seqs": 2}
        inputs = {b.name: torch.zeros(b.sizes(sizes), dtype=b.torch_dtype) for b in signature.inputs}
        inputs["seq_ids"].copy_(seq_ids)
        inputs["logits_indices"].copy_(torch.tensor([2, 0]))
        inputs["max_length"].fill_(9)
        inputs["scores"][2, 11] = inputs["scores"][0, 30] = 5.0
        (tokens,) = graph(inputs)
        assert tokens.tolist() == [11, 30]


def test_all_models_share_the_graphs_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))

    def compiled(name: str, checkpoint: Path, **options: Any) -> set[str]:
        """Return the names of the cache entries that the compilation added."""
        folder = tmp_path / "cache" / "graphs"
        before = set(folder.iterdir()) if folder.is_dir() else set()
        compile_small(checkpoint, tmp_path / name, **{**SMALL, **options})
        added = set(folder.iterdir()) - before
        return {path.name for path in added}

    first = t5(tmp_path / "first")
    assert len(compiled("a", first)) == 6
    assert not compiled("again", first)
    assert len(compiled("b", t5(tmp_path / "deeper", layers=2))) == 2, "encode_source and decode have weights"
    assert len(compiled("c", first, dtype="bf16")) == 2, "scores are fp32 in any case"
    other = t5(tmp_path / "other", vocab_size=VOCAB + 30)
    assert len(compiled("d", other)) == 2, "the vocabulary is an axis"
    longer = {"max_length": 25, "max_target_length": 18, "max_num_seqs": 9}
    assert len(compiled("e", first, **longer)) == 2, "so are the limits"
    same = [manifest_of(tmp_path / name) for name in "ab"]
    for name in BUCKET_AXES:
        files = [manifest.files[f"graphs/{name}.json"] for manifest in same]
        assert (files[0] == files[1]) is (name not in ("encode_source", "decode")), name


def manifest_of(artifact: Path) -> Manifest:
    return read_manifest(artifact)


def test_a_second_compilation_reads_all_graphs_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    checkpoint = t5(tmp_path / "model")

    def run(name: str) -> bool:
        options = CompileOptions(str(checkpoint), tmp_path / name, backend="reference", verify=False, **SMALL)
        return pipeline.run(options).from_cache

    assert not run("first") and run("second")


@pytest.mark.parametrize(
    ("generation", "options", "expected"),
    [
        ({}, {}, GenerateLimits(512, 512, 4096, 64, 64)),
        ({"max_length": 700}, {}, GenerateLimits(512, 700, 4096, 64, 64)),
        ({"max_length": 30}, {}, GenerateLimits(512, 512, 4096, 64, 64)),
        ({"max_new_tokens": 600}, {}, GenerateLimits(512, 601, 4096, 64, 64)),
        ({"max_length": 700}, {"max_target_length": 40}, GenerateLimits(512, 40, 4096, 64, 64)),
        ({}, {"max_length": 5000, "max_batch": 3, "max_num_seqs": 7}, GenerateLimits(5000, 512, 5000, 3, 7)),
    ],
)
def test_limits_of_relative_positions(
    generation: dict[str, Any], options: dict[str, int], expected: GenerateLimits, tmp_path: Path
) -> None:
    checkpoint = t5(tmp_path / "model", **generation)
    assert compile_small(checkpoint, tmp_path / "a", **options).limits == expected


def test_positions_of_encoder_and_decoder_bound_the_limits(tmp_path: Path) -> None:
    checkpoint = write_small("marian", tmp_path / "model")  # 256 positions
    config = {"max_length": 300, "decoder_start_token_id": 2, "eos_token_id": 2}
    (checkpoint / "generation_config.json").write_text(json.dumps(config), "utf-8")
    limits = compile_small(checkpoint, tmp_path / "a").limits
    assert limits == GenerateLimits(256, 256, 4096, 64, 64)
    for option in ("max_length", "max_target_length"):
        with pytest.raises(CompileError, match=f"{option} 257 is beyond the 256 positions"):
            compile_small(checkpoint, tmp_path / "b", **{option: 257})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs must be positive, found 0"),
        ({"max_target_length": 0}, "max_target_length must be positive, found 0"),
        ({"max_target_length": 1}, "expected 2 or more, found 1"),
        ({"max_length": 20, "max_tokens": 19}, "max_tokens 19 does not hold"),
        ({"device": "cuda:sm_90"}, "needs a CUDA build of torch"),
        ({"device": "cuda:sm_90", "dtype": "fp16"}, "family t5 overflows in fp16; choose bf16 or fp32"),
        ({"task": "hidden", "max_target_length": 9}, "for task generate, found task hidden"),
        ({"task": "poem"}, "task must be one of auto, .*generate, found 'poem'"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    checkpoint = t5(tmp_path / "model")
    backend = "inductor" if "device" in options else "reference"
    with pytest.raises(CompileError, match=message):
        compile_small(checkpoint, tmp_path / "a", **{"backend": backend, **options})
    assert not (tmp_path / "a").exists()


def test_an_encoder_does_not_generate(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("hidden", tmp_path / "model", tokenizer=False)
    with pytest.raises(UnsupportedModelError, match="family bert has no decoder"):
        compile_small(checkpoint, tmp_path / "a", task="generate")


def test_the_encoder_of_an_encoder_decoder_is_compiled_for_its_tasks(tmp_path: Path) -> None:
    manifest = compile_small(t5(tmp_path / "model"), tmp_path / "a", task="hidden", max_length=20)
    assert list(manifest.graphs) == ["encode"] and manifest.limits == EncodeLimits(20, 16_384, 512)


def test_the_task_of_encoder_decoders_is_detected(tmp_path: Path) -> None:
    config = T5Config(vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    whole = save(T5Model(config), tmp_path / "whole")
    half = save(T5EncoderModel(config), tmp_path / "half")
    bart = save(BartModel(BartConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32,
    )), tmp_path / "bart")  # fmt: skip
    detected = [detect_task(open_checkpoint(str(path))) for path in (t5(tmp_path / "t5"), whole, bart, half)]
    assert detected == ["generate", "generate", "generate", "hidden"]
    nameless = json.loads((half / "config.json").read_text("utf-8"))
    del nameless["architectures"]
    (half / "config.json").write_text(json.dumps(nameless), "utf-8")
    assert detect_task(open_checkpoint(str(half))) == "hidden", "it has no decoder"


def test_graphs_without_weights_are_never_prepacked(tmp_path: Path) -> None:
    """They have no weights to store, whatever ``prepack`` is."""
    for prepack in (True, False):
        options = CompileOptions(str(t5(tmp_path / f"{prepack}")), tmp_path / "a", prepack=prepack, **SMALL)
        source, target = read_source(options), select_target(options)
        graphs = TASKS["generate"].build(source, target, options).graphs
        lowering = lowering_options(options)
        carries_weights = {
            graph.name: target.backend(graph.lowering_options(lowering)).carries_weights for graph in graphs
        }
        assert carries_weights == {
            name: prepack and name in ("encode_source", "decode") for name in BUCKET_AXES
        }
