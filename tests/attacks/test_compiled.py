"""Compiled graphs: all checks happen before native code runs, which has none."""

from __future__ import annotations

import _ctypes
from pathlib import Path

import pytest

from precast.artifacts.errors import WeightsError
from precast.graphs.errors import ProgramError
from precast.runtime.errors import GraphError
from tests.attacks.tampering import (
    WEIGHTS,
    Attack,
    Json,
    assert_refused,
    change,
    content,
    copy_of,
    edit,
    tensors,
)

LIBRARY = "graphs/encode.so"
TABLE = "embeddings.tokens.weight"
SIGNATURE = "graphs.encode.signature"


def shrunk(header: dict[str, Json], data: bytes) -> tuple[dict[str, Json], bytes]:
    """Remove the last row of the token table; the graph would read beyond it."""
    names = sorted(header, key=lambda name: header[name]["data_offsets"][0])
    rest, at = b"", 0
    for name in names:
        start, end = header[name]["data_offsets"]
        if name == TABLE:
            rows, width = header[name]["shape"]
            header[name]["shape"], end = [rows - 1, width], end - width * 4
        rest += data[start:end]
        header[name]["data_offsets"] = [at, at + end - start]
        at += end - start
    return header, rest


def halved(header: dict[str, Json], data: bytes) -> tuple[dict[str, Json], bytes]:
    """Store the token table as bfloat16 in the same shape."""
    start, end = header[TABLE]["data_offsets"]
    middle = (start + end) // 2
    header[TABLE] |= {"dtype": "BF16", "data_offsets": [start, middle]}
    header["rest"] = {"dtype": "U8", "shape": [end - middle], "data_offsets": [middle, end]}
    return header, data


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    edit(lambda data: (data.update(weights=None), data["files"].pop(WEIGHTS)))(folder)


def foreign_library() -> bytes:
    """Return a shared library that loads and is not a graph."""
    return Path(_ctypes.__file__).read_bytes()


ATTACKS = {
    "a text as library": Attack(content(LIBRARY, b"#!/bin/sh\n"), GraphError, "encode.so cannot be loaded"),
    "an empty library": Attack(content(LIBRARY, b""), GraphError, "encode.so cannot be loaded"),
    "the start of a library": Attack(
        content(LIBRARY, lambda old: old[:40]), GraphError, "encode.so cannot be loaded"
    ),
    "another library": Attack(
        content(LIBRARY, lambda _: foreign_library()), GraphError, "no function CreateWithDevice"
    ),
    "a library as a program": Attack(change("build.backend", "reference"), ProgramError, "not UTF-8"),
    "a missing input": Attack(
        edit(lambda d: d["graphs"]["encode"]["signature"]["inputs"].pop(1)),
        GraphError,
        "has 4 inputs.*3 and 1",
    ),
    "an output of another size": Attack(
        edit(
            lambda d: (
                d["output"].update(labels=["a", "b", "c", "d"]),
                d["graphs"]["encode"]["signature"]["outputs"][0]["shape"].__setitem__(1, 4),
            )
        ),
        GraphError,
        "first batch.*expected the outputs",
    ),
    "a missing weight": Attack(
        edit(lambda d: d["graphs"]["encode"]["constants"].remove(TABLE)), GraphError, f"binds other.*{TABLE}"
    ),
    "an unknown weight": Attack(
        edit(lambda d: d["graphs"]["encode"]["constants"].append("more")), WeightsError, "lacks.*more"
    ),
    "prepacked weights that are missing": Attack(
        change("graphs.encode.weights", "prepacked"), GraphError, r"encode.so needs \d+ bytes.*carries none"
    ),
    "no weights file": Attack(without_weights, WeightsError, f"lacks.*{TABLE}"),
    "a table without its last row": Attack(tensors(shrunk), GraphError, f"3904 bytes as {TABLE}.*3840"),
    "a table of another dtype": Attack(tensors(halved), GraphError, f"3904 bytes as {TABLE}.*1952"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, compiled: Path, tmp_path: Path) -> None:
    tampered = copy_of(compiled, tmp_path)
    ATTACKS[name].tamper(tampered)
    assert_refused(tampered, ATTACKS[name], compiled)
