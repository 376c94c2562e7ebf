"""Manifests: round trip through JSON, and refusal of everything that the schema does not allow."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.artifacts.build_info import BuildInfo, CudaInfo
from precast.artifacts.errors import FormatVersionError, ManifestError, UnsafePathError
from precast.artifacts.manifest import (
    ClassifyInfo,
    EmbedInfo,
    EncodeManifest,
    FileInfo,
    GraphInfo,
    HiddenInfo,
    Manifest,
    ModelInfo,
    ParityInfo,
    TokenizationInfo,
    VariantInfo,
)
from precast.artifacts.parsing import parse_manifest
from precast.graphs.encode import EncodeLimits, encode_output, encode_signature
from precast.graphs.graph_names import GraphName
from tests.support.artifacts import example_manifest

texts = st.text(max_size=12)
sizes = st.integers(0, 2**70)
counts = st.integers(1, 2**30)
seconds = st.floats(min_value=1e-9, max_value=1e6)
numbers = st.floats(allow_nan=False, allow_infinity=False)
paths = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,9}(\.[a-z]{1,4})?(/[a-z0-9_]{1,9})?", fullmatch=True).filter(
    lambda path: path != "manifest.json"
)
files = st.builds(
    FileInfo, sha256=st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest()), bytes=sizes
)
outputs = st.one_of(
    st.builds(
        EmbedInfo,
        size=counts,
        pooling=st.lists(texts, max_size=3).map(tuple),
        prompts=st.dictionaries(texts, texts, max_size=3),
        default_prompt_name=st.none() | texts,
        include_prompt=st.booleans(),
        normalize=st.booleans(),
        similarity=texts,
    ),
    st.builds(
        ClassifyInfo,
        labels=st.lists(texts, min_size=1, max_size=3).map(tuple),
        activation=st.sampled_from(["softmax", "sigmoid", "identity"]),
        score_activation=st.sampled_from(["sigmoid", "identity"]),
    ),
    st.builds(HiddenInfo, size=counts),
)
limits = st.tuples(counts, counts, counts).map(
    lambda numbers: EncodeLimits(numbers[0] % 1000 + 1, numbers[1] % 1000 + 1000, numbers[2] % 1000 + 1)
)


processor_builds = st.builds(
    BuildInfo,
    precast=texts,
    torch=texts,
    target=st.sampled_from(["cpu", "reference"]),
    backend=st.sampled_from(["inductor", "reference"]),
    device=st.just("cpu"),
    dtype=st.sampled_from(["fp32", "bf16"]),
    quantization=st.sampled_from([None, "int8"]),
    architecture=texts,
    instruction_sets=st.lists(texts, max_size=3).map(tuple),
    cuda=st.none(),
    options=st.dictionaries(texts, st.booleans() | st.integers() | texts, max_size=3),
)
cuda_builds = st.builds(
    BuildInfo,
    precast=texts,
    torch=texts,
    target=st.just("cuda"),
    backend=st.just("inductor"),
    device=st.just("cuda"),
    dtype=st.sampled_from(["fp32", "bf16", "fp16"]),
    quantization=st.none(),
    architecture=texts,
    instruction_sets=st.just(()),
    cuda=st.builds(
        CudaInfo,
        release=st.from_regex(r"[0-9]{1,2}\.[0-9]", fullmatch=True),
        compute_capability=st.tuples(st.integers(7, 12), st.integers(0, 9)),
    ),
    options=st.just({}),
)


parities = st.builds(
    ParityInfo,
    oracle=texts,
    inputs=sizes,
    tokens=sizes,
    max_abs_error=numbers,
    max_relative_error=numbers,
    min_cosine=numbers,
    allowed_relative_error=numbers,
    allowed_cosine=numbers,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Generate manifests that follow the schema, though no engine could serve most of them."""
    limit = draw(limits)
    named = draw(st.lists(paths, min_size=3, max_size=3, unique=True))
    buckets = len(limit.buckets("cpu").sizes)
    graph = GraphInfo(
        variants=(
            VariantInfo(
                file=named[0],
                max_size=draw(counts),
                tuned_at=draw(counts),
                choices=draw(st.dictionaries(texts, texts, max_size=2)),
            ),
        ),
        signature=encode_signature(
            limit,
            encode_output("embed", draw(counts)),
            device="cpu",
            token_types=draw(st.booleans()),
            prompt_lengths=True,
        ),
        buckets=limit.buckets("cpu"),
        costs=draw(st.none() | st.lists(seconds, min_size=buckets, max_size=buckets).map(tuple)),
        weights=draw(st.sampled_from(["bound", "prepacked"])),
        constants=draw(st.lists(texts, max_size=3).map(tuple)),
        prepacked_bytes=draw(sizes),
    )
    weights, tokenizer = draw(st.booleans()), draw(st.booleans())
    listed = [named[0], *([named[1]] if weights else []), *([named[2]] if tokenizer else [])]
    output = draw(outputs)
    return EncodeManifest(
        format_version=2,
        model=ModelInfo(
            name=draw(texts),
            family=draw(texts),
            task=draw(st.sampled_from(TASKS_OF[output.kind])),
            parameters=draw(sizes),
            vocab_size=draw(counts),
            hidden_size=draw(counts),
        ),
        build=draw(st.one_of(processor_builds, cuda_builds)),
        limits=limit,
        graphs={GraphName.ENCODE: graph},
        weights=named[1] if weights else None,
        tokenization=TokenizationInfo(
            file=named[2] if tokenizer else None,
            token_types=draw(st.booleans()),
            truncation_side=draw(st.sampled_from(["left", "right"])),
            empty_id=draw(st.integers()),
            special_ids=tuple(draw(st.lists(st.integers(), max_size=3))),
            decoding=None,
            languages=None,
        ),
        output=output,
        parity=draw(st.none() | parities),
        notes=tuple(draw(st.lists(texts, max_size=3))),
        files={name: draw(files) for name in listed},
    )


TASKS_OF = {"embed": ["embed"], "classify": ["classify", "rerank", "token-classify"], "hidden": ["hidden"]}


def signed(data: dict[str, Any]) -> str:
    """Return ``data`` as JSON with a valid digest, computed as SPEC.md says."""
    data = {key: value for key, value in data.items() if key != "digest"}
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps({**data, "digest": hashlib.sha256(canonical.encode()).hexdigest()})


@settings(max_examples=60, deadline=None)
@given(manifest=manifests())
def test_manifest_round_trips_through_json(manifest: Manifest) -> None:
    text = manifest.to_json()
    assert parse_manifest(text) == manifest
    assert parse_manifest(text).to_json() == text


@settings(max_examples=30, deadline=None)
@given(manifest=manifests(), seed=st.integers(0, 99))
def test_digest_depends_on_content_and_not_on_formatting(manifest: Manifest, seed: int) -> None:
    """The order of keys and white space do not matter, and SPEC.md suffices to compute the digest."""
    data = json.loads(manifest.to_json())
    assert list(data)[-1] == "digest"
    assert json.loads(signed(data)) == data
    keys = list(data)
    random.Random(seed).shuffle(keys)
    for text in (json.dumps(data), json.dumps({key: data[key] for key in keys}, indent=7, ensure_ascii=True)):
        assert parse_manifest(text) == manifest


def ways(data: Any, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every object within ``data``."""
    inner = (
        list(data.items())
        if isinstance(data, dict)
        else list(enumerate(data))
        if isinstance(data, list)
        else []
    )
    return ([way] if isinstance(data, dict) else []) + [
        w for key, value in inner for w in ways(value, (*way, key))
    ]


def at(data: Any, way: tuple[str | int, ...]) -> Any:
    for step in way:
        data = data[step]
    return data


FREE = (("build", "options"), ("graphs",), ("files",))
"""Objects with arbitrary names as keys."""


@pytest.mark.parametrize(
    "way", [way for way in ways(json.loads(example_manifest().to_json())) if way not in FREE], ids=str
)
def test_an_unknown_key_anywhere_is_refused(way: tuple[str | int, ...]) -> None:
    data = json.loads(example_manifest().to_json())
    at(data, way)["surprise"] = 1
    with pytest.raises(ManifestError, match="surprise"):
        parse_manifest(signed(data))


def test_every_key_is_needed() -> None:
    text = example_manifest().to_json()
    for way in ways(json.loads(text)):
        for key in at(json.loads(text), way):
            if way in FREE or key in ("digest", "format_version"):
                continue
            data = json.loads(text)
            del at(data, way)[key]
            with pytest.raises((ManifestError, FormatVersionError), match=key):
                parse_manifest(signed(data))


def test_a_value_of_another_type_is_refused() -> None:
    """Text is not converted to a number, nor a number to a boolean."""
    original = json.loads(example_manifest().to_json())
    for way in ways(original):
        for key, value in at(original, way).items():
            other: Any = 1 if isinstance(value, str) or value is None else "1"
            if way == ("build", "options") or (key, way) == ("digest", ()):
                continue
            data = json.loads(example_manifest().to_json())
            at(data, way)[key] = other
            with pytest.raises((ManifestError, FormatVersionError), match="found|version"):
                parse_manifest(signed(data))


def test_the_digest_guards_every_value() -> None:
    text = example_manifest().to_json()
    for old, new in (("tiny", "tinz"), ('"vocab_size": 61', '"vocab_size": 62'), ("a note", "b note")):
        assert old in text
        with pytest.raises(ManifestError, match="changed after it was written: its digest is"):
            parse_manifest(text.replace(old, new))


def test_message_names_the_first_violations_and_counts_the_others() -> None:
    data = json.loads(example_manifest().to_json())
    data["notes"] = [1, 2, 3, 4, 5]
    with pytest.raises(
        ManifestError, match=r"version 2: notes\.0: .*found 1; notes\.1.*notes\.2.*; and 2 more;"
    ):
        parse_manifest(signed(data))


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/b/c", "a//b", "A", "", ".x", "x/", "manifest.json", "a..b"]
)
def test_paths_outside_the_artifact_are_refused(path: str) -> None:
    data = json.loads(example_manifest().to_json())
    data["files"][path] = data["files"]["weights.safetensors"]
    with pytest.raises(UnsafePathError, match="names the file"):
        parse_manifest(signed(data))


def test_unused_files_are_refused() -> None:
    data = json.loads(example_manifest().to_json())
    data["files"]["more.bin"] = data["files"]["weights.safetensors"]
    with pytest.raises(ManifestError, match="more.bin"):
        parse_manifest(signed(data))
