"""Ways to tamper with an artifact, with and without updating its hashes and its digest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import precast
from precast.graphs.errors import PrecastError

Tamper = Callable[[Path], Any]
Json = Any

MANIFEST = "manifest.json"
GRAPH = "graphs/encode.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Attack:
    """A modification of an artifact, and the error with which ``precast.load`` must refuse the result."""

    tamper: Tamper
    error: type[PrecastError]
    message: str
    """Pattern that the message must match."""


def read(folder: Path, name: str = MANIFEST) -> Json:
    return json.loads((folder / name).read_text("utf-8"))


def write(folder: Path, data: Json, name: str = MANIFEST) -> None:
    (folder / name).write_text(json.dumps(data), "utf-8")


def sign(folder: Path, data: Json) -> None:
    """Write ``data`` as the manifest, with the sizes and hashes of the files and the digest updated."""
    for name, info in data["files"].items() if isinstance(data.get("files"), dict) else ():
        if isinstance(info, dict) and (folder / name).is_file():
            content = (folder / name).read_bytes()
            info["sha256"], info["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    sign_only(folder, data)


def sign_only(folder: Path, data: Json) -> None:
    """Write ``data`` as the manifest with the digest updated, but not the sizes and hashes of the files."""
    data.pop("digest", None)
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data["digest"] = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    write(folder, data)


def change(path: str, value: Json) -> Tamper:
    """Set one value of the manifest (``"build.torch"``, ``"graphs.encode.buckets"``) and update the
    digest."""

    def tamper(folder: Path) -> None:
        data = read(folder)
        *parents, last = path.split(".")
        parent = data
        for key in parents:
            parent = parent[int(key)] if isinstance(parent, list) else parent[key]
        parent[int(last) if isinstance(parent, list) else last] = value
        sign_only(folder, data)

    return tamper


def edit(alter: Callable[[Json], Any], *, signed: bool = True) -> Tamper:
    """Modify the manifest in place, by default with the digest updated."""

    def tamper(folder: Path) -> None:
        data = read(folder)
        alter(data)
        (sign_only if signed else write)(folder, data)

    return tamper


def program(alter: Callable[[Json], Any]) -> Tamper:
    """Modify the portable program in place and update hashes and digest."""

    def tamper(folder: Path) -> None:
        data = read(folder, GRAPH)
        alter(data)
        write(folder, data, GRAPH)
        sign(folder, read(folder))

    return tamper


def content(name: str, data: bytes | Callable[[bytes], bytes]) -> Tamper:
    """Replace the content of a file and update hashes and digest."""

    def tamper(folder: Path) -> None:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))
        sign(folder, read(folder))

    return tamper


def tensors(alter: Callable[[dict[str, Json], bytes], tuple[dict[str, Json], bytes]]) -> Tamper:
    """Modify the header and the data of the weights file and update hashes and digest."""

    def renewed(old: bytes) -> bytes:
        size = int.from_bytes(old[:8], "little")
        header, data = alter(json.loads(old[8 : 8 + size]), old[8 + size :])
        return safetensors(json.dumps(header).encode(), data)

    return content(WEIGHTS, renewed)


def safetensors(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    """Return the content of a weights file; ``size`` is the length that it claims for its header."""
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def copy_of(artifact: Path, folder: Path) -> Path:
    """Return a copy of an artifact to tamper with."""
    return Path(shutil.copytree(artifact, folder / "tampered.precast"))


def workers() -> int:
    """Return the number of live engine threads; a refused artifact must not leave one behind."""
    return sum(thread.name == "precast-worker" for thread in threading.enumerate())


def assert_refused(folder: Path, attack: Attack, good: Path) -> None:
    """Check that ``folder`` is refused with the expected error, and that ``good`` still loads and works."""
    before = workers()
    error = refusal(folder)
    assert type(error) is attack.error, f"expected {attack.error.__name__}, found {error!r}"
    assert re.search(attack.message, str(error)), f"{attack.message!r} is not in the message: {error}"
    assert len(str(error)) < 2000, "the message is too long to read"
    assert workers() == before, "the refused artifact left its thread behind"
    assert_serves(good)


def refusal(folder: Path) -> PrecastError | None:
    """Return the precast error that loading raises, None if it loads; other errors propagate."""
    try:
        precast.load(folder).close()
    except PrecastError as error:
        return error
    return None


def assert_serves(artifact: Path) -> None:
    with precast.load(artifact) as engine:
        output = engine.encode([2, 5, 3])
    arrays = [array for array in (output.embedding, output.logits, output.hidden) if array is not None]
    assert len(arrays) == 1 and np.isfinite(arrays[0]).all()
