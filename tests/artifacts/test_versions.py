"""Artifacts of other format versions: refused, with the command that compiles them again."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from precast.artifacts.errors import FormatVersionError
from precast.artifacts.manifest import MANIFEST_NAME
from precast.artifacts.parsing import parse_manifest
from precast.artifacts.reader import read_manifest
from precast.artifacts.versions import compile_command
from precast.tools.cli.compile import compile_command as cli_compile_command

Json = dict[str, Any]

ENCODER: Json = {
    "format_version": 1,
    "model": {
        "name": "sentence-transformers/all-MiniLM-L6-v2", "family": "bert", "task": "embed",
        "parameters": 22_565_376, "vocab_size": 30_522, "hidden_size": 384,
    },
    "build": {
        "precast": "0.1.0", "torch": "2.13.0", "backend": "inductor", "device": "cpu", "dtype": "bf16",
        "quantization": "int8", "architecture": "x86_64", "instruction_sets": ["avx2", "avx512f"],
        "cuda": None,
        "options": {"prepack": True, "autotune": False, "kernels": "avx512"},
    },
    "limits": {"max_length": 256, "max_tokens": 16_384, "max_batch": 512},
    "graphs": {
        "encode": {
            "variants": [{"file": "graphs/encode.so", "max_size": 16_384, "tuned_at": 256, "choices": {}}],
            "signature": {
                "graph": "encode",
                "axes": [
                    {"name": "tokens", "minimum": 2, "maximum": 16_384},
                    {"name": "sequences", "minimum": 2, "maximum": 512},
                    {"name": "length", "minimum": 2, "maximum": 256},
                ],
                "inputs": [
                    {"name": "input_ids", "dtype": "int32", "shape": ["tokens"]},
                    {"name": "cu_seqlens", "dtype": "int32", "shape": ["sequences+1"]},
                    {"name": "key_positions", "dtype": "int32", "shape": ["length"]},
                ],
                "outputs": [{"name": "embedding", "dtype": "float32", "shape": ["sequences", 384]}],
                "written": [],
            },
            "ladder": {"axis": "tokens", "buckets": [16, 32, 16_384]},
            "costs": [0.001, 0.002, 0.9],
            "weights": "prepacked",
            "constants": [],
            "prepacked_bytes": 5,
        }
    },
    "weights": None,
    "tokenization": {
        "file": "tokenizer.json", "token_types": True, "truncation_side": "right", "empty_id": 101,
        "special_ids": [101, 102], "decoding": None, "languages": None,
    },
    "answer": {
        "kind": "embed", "size": 384, "pooling": ["mean"], "include_prompt": True, "normalize": True,
        "prompts": {}, "default_prompt_name": None, "similarity": "cosine",
    },
    "parity": {
        "oracle": "transformers 5.17.0", "inputs": 8, "tokens": 99, "max_abs_error": 0.01,
        "max_relative_error": 0.01, "min_cosine": 0.999, "allowed_relative_error": 0.05,
        "allowed_cosine": 0.99,
    },
    "notes": [],
    "files": {
        "graphs/encode.so": {"sha256": "0" * 64, "bytes": 5},
        "tokenizer.json": {"sha256": "0" * 64, "bytes": 5},
    },
    "digest": "0" * 64,
}  # fmt: skip
"""The keys of a version 1 manifest, with few buckets."""

GENERATOR: Json = {
    **ENCODER,
    "model": {**ENCODER["model"], "name": "t5-small", "family": "t5", "task": "generate"},
    "build": {**ENCODER["build"], "backend": "reference", "dtype": "fp32", "quantization": None,
              "options": {}},
    "limits": {
        "max_source_length": 512, "max_target_length": 200, "max_tokens": 4096, "max_batch": 64,
        "max_rows": 32,
    },
    "answer": {
        "kind": "generate", "size": 512, "vocab_size": 32_128,
        "own_pool": {"layers": 6, "heads": 8, "head_dim": 64, "dtype": "float32"},
        "cross_pool": {"layers": 6, "heads": 8, "head_dim": 64, "dtype": "float32"},
        "defaults": {"max_length": None},
    },
    "parity": None,
}  # fmt: skip

CUDA: Json = {
    **ENCODER,
    "build": {
        **ENCODER["build"], "device": "cuda", "dtype": "fp16", "quantization": None, "instruction_sets": [],
        "cuda": {"release": "13.0", "compute_capability": [9, 0]},
        "options": {
            "device": "cuda", "architecture": "sm_90", "cuda": "13.0", "autotune": True, "ptx": False,
        },
    },
}  # fmt: skip

CROSS: Json = {
    **CUDA,
    "build": {**CUDA["build"], "options": {**CUDA["build"]["options"], "autotune": False, "tuned": False}},
    "parity": None,
}

MINILM = "precast compile sentence-transformers/all-MiniLM-L6-v2 -o OUT --task embed"
COMMANDS = {
    "encoder": (
        ENCODER,
        f"{MINILM} --device cpu --dtype bf16 --quantize int8 --backend inductor --max-length 256 "
        f"--max-tokens 16384 --max-batch 512 --pooling mean --prepack --no-autotune",
    ),
    "generator": (
        GENERATOR,
        "precast compile t5-small -o OUT --task generate --device cpu --dtype fp32 --backend reference "
        "--max-length 512 --max-target-length 200 --max-tokens 4096 --max-batch 64 --max-num-seqs 32 "
        "--no-verify",
    ),
    "cuda": (
        CUDA,
        f"{MINILM} --device cuda --dtype fp16 --backend inductor --max-length 256 --max-tokens 16384 "
        f"--max-batch 512 --pooling mean --autotune",
    ),
    "cuda without a GPU": (
        CROSS,
        f"{MINILM} --device cuda:sm_90 --dtype fp16 --backend inductor --max-length 256 --max-tokens 16384 "
        f"--max-batch 512 --pooling mean --no-verify",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_version_1_is_refused_with_the_command_that_compiles_it_again(name: str) -> None:
    data, command = COMMANDS[name]
    with pytest.raises(FormatVersionError) as caught:
        parse_manifest(json.dumps(data))
    assert str(caught.value) == (
        f"the artifact has format version 1, this runtime reads 2; compile the same checkpoint again: "
        f"`{command}`"
    )


def test_the_command_replaces_the_artifact_that_was_opened(tmp_path: Path) -> None:
    folder = tmp_path / "my model.precast"
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(json.dumps(ENCODER), "utf-8")
    with pytest.raises(FormatVersionError) as caught:
        read_manifest(folder)
    words = shlex.split(str(caught.value).split("`")[1])
    assert words[3:6] == ["-o", str(folder), "--overwrite"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_has_every_option_of_the_command(name: str) -> None:
    app = typer.Typer()
    app.command("compile")(cli_compile_command)
    known = {
        option
        for parameter in typer.main.get_command(app).params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {word for word in shlex.split(COMMANDS[name][1]) if word.startswith("-")}
    assert used <= known


@pytest.mark.parametrize("version", [0, 1, 3, "2", True, 2.0, None, [2]])
def test_a_manifest_with_nothing_but_a_version(version: object) -> None:
    with pytest.raises(FormatVersionError, match="`precast compile MODEL -o OUT`$"):
        parse_manifest(json.dumps({"format_version": version}))


HOSTILE = [
    "; rm -rf ~",
    "$(id)",
    "`id`",
    "a\nb",
    "--help",
    "'",
    "",
    "x" * 10_000,
    7,
    None,
    True,
    [],
    ["a"],
    {"a": 1},
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_a_hostile_manifest_yields_one_harmless_command(value: object) -> None:
    """Whatever a manifest holds: one command, whose options are known and whose text is quoted."""
    whole = [(part, None) for part in ENCODER]
    keys = [(part, key) for part in ("model", "build", "limits", "answer") for key in ENCODER[part]]
    for part, key in [*whole, *keys]:
        data = copy.deepcopy(ENCODER)
        if key is None:
            data[part] = value
        else:
            data[part][key] = value
        words = shlex.split(compile_command(data))
        assert words[:2] == ["precast", "compile"] and words[3] == "-o" and len(" ".join(words)) < 600
        assert words[2] in ("MODEL", ENCODER["model"]["name"], value)
        for word in words[4:]:
            assert word != value, f"{part}.{key}"
