"""Invalid weights files and tokenizers, all with valid hashes."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

import precast
from precast.artifacts.errors import OversizedError, TokenizerFileError, WeightsError
from precast.artifacts.weights import MAX_HEADER_BYTES
from precast.graphs.errors import PrecastError, ProgramError
from precast.runtime.errors import GraphError, TokenizationError
from tests.attacks.tampering import (
    TOKENIZER,
    WEIGHTS,
    Attack,
    Json,
    assert_refused,
    assert_serves,
    content,
    copy_of,
    read,
    safetensors,
    sign,
    tensors,
    write,
)
from tests.support.artifacts import TinyModels

TABLE = "embeddings.tokens.weight"
LINEAR = "encoder.layers.0.attention.qkv.weight"
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def file(header: str | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return safetensors(header.encode() if isinstance(header, str) else header, data, size)


def described(name: str, **changes: Json) -> Attack:
    """Describe the bytes of a tensor differently."""
    return Attack(
        tensors(lambda header, data: ({**header, name: {**header[name], **changes}}, data)),
        GraphError,
        "first batch",
    )


def without_table(header: dict[str, Json], data: bytes) -> tuple[dict[str, Json], bytes]:
    return {("other" if name == TABLE else name): info for name, info in header.items()}, data


def repeated(old: bytes) -> bytes:
    size = int.from_bytes(old[:8], "little")
    header = old[8 : 8 + size].rstrip()
    first = json.dumps({TABLE: json.loads(header)[TABLE]})
    return file(first[:-1].encode() + b"," + header[1:], old[8 + size :])


ATTACKS = {
    "an empty file": Attack(content(WEIGHTS, b""), WeightsError, WEIGHTS),
    "seven bytes": Attack(content(WEIGHTS, b"\1\0\0\0\0\0\0"), WeightsError, WEIGHTS),
    "a pickle": Attack(content(WEIGHTS, b"\x80\4cos\nsystem\n(S'true'\ntR."), OversizedError, "header"),
    "a header of exabytes": Attack(
        content(WEIGHTS, file("{}", size=2**63)),
        OversizedError,
        f"{2**63} bytes, expected at most {MAX_HEADER_BYTES}",
    ),
    "a header one byte too long": Attack(
        content(WEIGHTS, file(b"{" + b" " * MAX_HEADER_BYTES)), OversizedError, str(MAX_HEADER_BYTES + 1)
    ),
    "a header beyond the file": Attack(content(WEIGHTS, file("{}", size=100)), WeightsError, WEIGHTS),
    "a header that is not JSON": Attack(content(WEIGHTS, file("weights")), WeightsError, "Expecting value"),
    "a header that is not UTF-8": Attack(
        content(WEIGHTS, file(b'{"\xff": 1}')), WeightsError, "utf-8|decode"
    ),
    "a header that is a list": Attack(content(WEIGHTS, file("[]")), WeightsError, WEIGHTS),
    "a header without end": Attack(content(WEIGHTS, file("[" * 100_000)), WeightsError, WEIGHTS),
    "a header nested 500 deep": Attack(
        content(WEIGHTS, file('{"a":' + "[" * 500 + "]" * 500 + "}")), WeightsError, WEIGHTS
    ),
    "no tensors": Attack(content(WEIGHTS, file("{}")), WeightsError, "lacks"),
    "a tensor that is a number": Attack(content(WEIGHTS, file('{"a": 1}')), WeightsError, WEIGHTS),
    "a name twice": Attack(content(WEIGHTS, repeated), WeightsError, "a key is repeated: .*tokens.weight"),
    "an unknown dtype": Attack(
        content(WEIGHTS, file(json.dumps({"a": {**ONE, "dtype": "F33"}}), b"0000")), WeightsError, "F33"
    ),
    "a negative size": Attack(
        content(WEIGHTS, file(json.dumps({"a": {**ONE, "shape": [-1]}}), b"0000")), WeightsError, "-1"
    ),
    "a size beyond 64 bits": Attack(
        content(WEIGHTS, file(json.dumps({"a": {**ONE, "shape": [2**63, 4]}}), b"0000")),
        WeightsError,
        "overflow",
    ),
    "offsets beyond the file": Attack(
        content(WEIGHTS, file(json.dumps({"a": {**ONE, "data_offsets": [0, 2**40]}}), b"0000")),
        WeightsError,
        WEIGHTS,
    ),
    "offsets the wrong way round": Attack(
        content(WEIGHTS, file(json.dumps({"a": {**ONE, "data_offsets": [4, 0]}}), b"0000")),
        WeightsError,
        WEIGHTS,
    ),
    "bytes of no tensor": Attack(tensors(lambda h, data: (h, data + b"\0" * 8)), WeightsError, WEIGHTS),
    "bytes less": Attack(tensors(lambda h, data: (h, data[:-8])), WeightsError, WEIGHTS),
    "a tensor by another name": Attack(tensors(without_table), WeightsError, f"lacks.*{TABLE}"),
    "a tensor of another shape": described(TABLE, shape=[16, 61]),
    "a tensor of another layout": described(LINEAR, shape=[16, 48]),
    "a tensor of one dimension": described(TABLE, shape=[16 * 61]),
    "a tensor of integers": described(LINEAR, dtype="I32"),
    "a tensor of half the width": described(TABLE, dtype="BF16", shape=[61, 32]),
    "a tokenizer that is not JSON": Attack(
        content(TOKENIZER, b"vocab"), TokenizerFileError, "expected value"
    ),
    "a tokenizer that is not UTF-8": Attack(
        content(TOKENIZER, b"\xff\xfe"), TokenizerFileError, f"{TOKENIZER} is no"
    ),
    "an empty tokenizer": Attack(content(TOKENIZER, b"{}"), TokenizerFileError, "cannot be read"),
    "a tokenizer nested 100,000 deep": Attack(
        content(TOKENIZER, b"[" * 100_000 + b"]" * 100_000), TokenizerFileError, "cannot be read"
    ),
    "a tokenizer without a model": Attack(
        content(TOKENIZER, lambda old: old.replace(b'"WordPiece"', b'"Magic"')), TokenizerFileError, "cannot"
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, tiny: TinyModels, tmp_path: Path) -> None:
    good = tiny["embed"].artifact
    tampered = copy_of(good, tmp_path)
    ATTACKS[name].tamper(tampered)
    assert_refused(tampered, ATTACKS[name], good)


def test_unused_tensors_are_ignored(tiny: TinyModels, tmp_path: Path) -> None:
    tampered = copy_of(tiny["embed"].artifact, tmp_path)
    tensors(lambda h, d: ({**h, "more": {**ONE, "data_offsets": [len(d), len(d) + 4]}}, d + b"\0" * 4))(
        tampered
    )
    assert_serves(tampered)


def respell(folder: Path, **changes: Json) -> None:
    """Change keys of the tokenizer file and update hashes and digest."""
    write(folder, {**read(folder, TOKENIZER), **changes}, TOKENIZER)
    sign(folder, read(folder))


def test_padding_and_truncation_of_the_tokenizer_are_ignored(tiny: TinyModels, tmp_path: Path) -> None:
    """A padding length in the file could make the tokenizer allocate a terabyte."""
    good = tiny["hidden"].artifact
    tampered = copy_of(good, tmp_path)
    respell(
        tampered,
        padding={"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "[PAD]"},
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    )  # fmt: skip
    with precast.Encoder.load(tampered) as engine, precast.Encoder.load(good) as honest:
        for truncate in (True, False, "left"):
            output, expected = (e.encode("the cat sat", truncate=truncate) for e in (engine, honest))
            assert output.prompt_token_ids.tolist() == expected.prompt_token_ids.tolist()


@pytest.mark.parametrize("kind", [2, 2**31, 2**32 - 1])
def test_a_token_type_beyond_the_table_never_reaches_the_graph(
    kind: int, tiny: TinyModels, tmp_path: Path
) -> None:
    """Compiled graphs index a table with it, without a check."""
    tampered = copy_of(tiny["hidden"].artifact, tmp_path)
    template = read(tampered, TOKENIZER)["post_processor"]
    for part in template["pair"]:
        for piece in part.values():
            piece["type_id"] = kind if piece["type_id"] else 0
    respell(tampered, post_processor=template)
    with precast.Encoder.load(tampered) as engine:
        good, bad = engine.encode(["the cat", ("the", "cat")], return_exceptions=True)
        assert good.hidden.shape == (4, 16)
        assert type(bad) is TokenizationError and bad.index == 1 and str(kind) in str(bad)


def test_a_token_id_beyond_the_table_never_reaches_the_graph(tiny: TinyModels, tmp_path: Path) -> None:
    tampered = copy_of(tiny["hidden"].artifact, tmp_path)
    model = read(tampered, TOKENIZER)["model"]
    model["vocab"]["cat"] = 2**32 - 1
    respell(tampered, model=model)
    with precast.Encoder.load(tampered) as engine:
        good, bad = engine.encode(["the sat", "the cat"], return_exceptions=True)
        assert good.hidden.shape == (4, 16)
        assert isinstance(bad, PrecastError) and str(2**32 - 1) in str(bad)


def test_any_tokenizer_is_refused_or_serves(tiny: TinyModels, tmp_path: Path) -> None:
    """The tokenizers library panics on some of these, and a panic is not an ``Exception``."""
    good = tiny["hidden"].artifact
    tampered = copy_of(good, tmp_path)
    original = read(tampered, TOKENIZER)
    rng = random.Random(0)
    values = [None, True, -1, 0, 61, 2**32 - 1, 10**30, "", "x", "BPE", [], [1], {}, {"type": "BPE"}]
    for _ in range(200):
        changed = copy.deepcopy(original)
        parent: Json = changed
        way = [
            rng.choice(["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"])
        ]
        while isinstance(parent[way[-1]], dict | list) and parent[way[-1]] and rng.random() < 0.8:
            parent = parent[way[-1]]
            way.append(rng.choice(list(parent) if isinstance(parent, dict) else list(range(len(parent)))))
        parent[way[-1]] = rng.choice(values)
        respell(tampered, **changed)
        try:
            with precast.Encoder.load(tampered) as engine:
                engine.encode(["the cat sat", ("the", "cat"), ""], return_exceptions=True)
        except PrecastError as error:
            assert type(error) in (TokenizerFileError, ProgramError), f"{way}: {error!r}"
        except Exception as error:
            raise AssertionError(f"{way} = {parent[way[-1]]!r} raises {error!r}") from error
    assert_serves(good)
