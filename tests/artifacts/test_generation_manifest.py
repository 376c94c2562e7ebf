"""Manifests of encoder-decoders: six graphs, valid KV cache shapes, and no keys of an encoder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from precast.artifacts.errors import ManifestError
from precast.artifacts.generation_defaults import GenerationDefaults
from precast.artifacts.manifest import (
    FileInfo,
    GenerateInfo,
    GenerateManifest,
    GraphInfo,
    Manifest,
    TokenizationInfo,
    VariantInfo,
)
from precast.artifacts.parsing import parse_manifest
from precast.artifacts.tokenization import DecodingInfo, LanguageInfo
from precast.graphs.generation import generation_buckets, generation_signatures
from precast.graphs.seq2seq import GenerateLimits, KVCacheShape
from tests.artifacts.test_manifest import at, signed, ways
from tests.support.artifacts import example_manifest


def generating(**changes: Any) -> Manifest:
    """Return a fixed manifest of an encoder-decoder; its files do not exist."""
    limit = GenerateLimits(8, 6, 32, 4, 5)
    self_kv, cross_kv = KVCacheShape(2, 2, 8, "float32"), KVCacheShape(2, 4, 8, "float32")
    signatures = generation_signatures(limit, self_kv, cross_kv, hidden_size=16, vocab_size=47, device="cpu")
    graphs = {
        name: GraphInfo(
            variants=(
                VariantInfo(
                    file=f"graphs/{name}.json",
                    max_size=generation_buckets(name, limit, "cpu").top,
                    tuned_at=2,
                    choices={},
                ),
            ),
            signature=signature,
            buckets=generation_buckets(name, limit, "cpu"),
            costs=None,
            weights="bound",
            constants=(),
            prepacked_bytes=0,
        )
        for name, signature in signatures.items()
    }
    tokenization = TokenizationInfo(
        file="tokenizer.json", token_types=False, truncation_side="right", empty_id=0, special_ids=(),
        decoding=DecodingInfo(
            joins="metaspace", drops_prefix=True, strips=False, cleans_up=True, skipped_ids=(0, 1),
            pieces_file="pieces.json", unknown_id=2,
        ),
        languages=LanguageInfo(codes={"de": 3}, default="de", prefix=(None,), suffix=(1,)),
    )  # fmt: skip
    defaults = GenerationDefaults(num_beams=4, bad_words_ids=((3, 4),), sequence_bias=(((5,), -1.5),))
    named = [*(f"graphs/{name}.json" for name in graphs), "tokenizer.json", "pieces.json"]
    example = example_manifest()
    values: dict[str, Any] = {
        **{name: getattr(example, name) for name in ("format_version", "build", "parity", "notes")},
        "model": example.model.model_copy(update={"task": "generate"}),
        "limits": limit,
        "graphs": graphs,
        "weights": None,
        "tokenization": tokenization,
        "output": GenerateInfo(size=16, vocab_size=47, self_kv=self_kv, cross_kv=cross_kv, defaults=defaults),
        "files": {name: FileInfo(sha256="0" * 64, bytes=5) for name in named},
    }
    return GenerateManifest(**{**values, **changes})


def test_generation_manifest_round_trips_through_json() -> None:
    manifest = generating()
    text = manifest.to_json()
    assert parse_manifest(text) == manifest and parse_manifest(text).to_json() == text
    assert "pieces.json" in manifest.named_files()


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (
            ("limits",),
            {"max_length": 8, "max_tokens": 32, "max_batch": 4},
            "limits.*max_source_length",
        ),
        (("output",), {"kind": "hidden", "size": 16}, "output"),
        (("graphs", "more"), None, "graphs.more"),
        (("limits", "max_num_seqs"), 0, "max_num_seqs=0"),
        (("limits", "max_num_seqs"), "5", "limits.*max_num_seqs.*'5'"),
        (("limits", "max_length"), 5, "limits.*max_length"),
        (("output", "vocab_size"), 1, "vocab_size"),
        (("output", "self_kv", "layers"), 10**12, "self_kv needs up to 1024 layers"),
        (("output", "cross_kv", "heads"), 0, "cross_kv needs"),
        (("output", "cross_kv", "dtype"), "int32", "cross_kv needs"),
        (("output", "cross_kv", "layers"), 3, "same layers and dtype"),
        (("output", "self_kv", "dtype"), "bfloat16", "same layers and dtype"),
        (("output", "self_kv", "step"), 3, "self_kv.*step"),
        (("output", "defaults", "guidance_scale"), 1.5, "guidance_scale"),
        (("output", "defaults", "num_beams"), "4", "num_beams"),
        (("tokenization", "file"), None, "decoding or languages without a tokenizer"),
        (("tokenization", "decoding", "pieces_file"), None, "pieces_file"),
        (("tokenization", "languages", "default"), "fr", "fr is not one of the codes"),
    ],
)
def test_contradictions_of_generation_are_refused(way: tuple[str, ...], value: Any, message: str) -> None:
    data = json.loads(generating().to_json())
    at(data, way[:-1])[way[-1]] = value
    with pytest.raises(ManifestError, match=message):
        parse_manifest(signed(data))


def test_exactly_the_graphs_of_generation() -> None:
    for name in generating().graphs:
        data = json.loads(generating().to_json())
        graph = data["graphs"].pop(name)
        with pytest.raises(ManifestError, match="expected the graphs"):
            parse_manifest(signed(data))
        data["graphs"]["encode"] = graph
        with pytest.raises(ManifestError, match="expected the graphs"):
            parse_manifest(signed(data))


def test_every_key_of_a_generation_manifest_is_needed() -> None:
    """Except for parameters of generation, which an older compiler may not know."""
    text = generating().to_json()
    free = (
        ("build", "options"),
        ("graphs",),
        ("files",),
        ("output", "defaults"),
        ("tokenization", "languages", "codes"),
    )
    for way in ways(json.loads(text)):
        # One graph suffices; the others have the same keys.
        if way in free or (way[:1] == ("graphs",) and way[1] != "decode"):
            continue
        for key in at(json.loads(text), way):
            if key in ("digest", "format_version"):
                continue
            data = json.loads(text)
            del at(data, way)[key]
            with pytest.raises(ManifestError, match=key):
                parse_manifest(signed(data))


def test_an_unknown_parameter_of_generation_is_refused_and_a_missing_one_is_null() -> None:
    data = json.loads(generating().to_json())
    del data["output"]["defaults"]["top_k"]
    assert parse_manifest(signed(data)) == generating()
    data["output"]["defaults"]["top_q"] = 3
    with pytest.raises(ManifestError, match=r"output\.defaults\.top_q"):
        parse_manifest(signed(data))
