"""What an attacker does to an artifact: the careless way, and the careful one that signs again."""

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

Spoil = Callable[[Path], Any]
Json = Any

MANIFEST = "manifest.json"
GRAPH = "graphs/encode.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Attack:
    """A way to spoil an artifact, and how ``precast.load`` must refuse the result."""

    spoil: Spoil
    error: type[PrecastError]
    says: str
    """Pattern of what the message must name."""


def read(folder: Path, name: str = MANIFEST) -> Json:
    return json.loads((folder / name).read_text("utf-8"))


def write(folder: Path, data: Json, name: str = MANIFEST) -> None:
    (folder / name).write_text(json.dumps(data), "utf-8")


def sign(folder: Path, data: Json) -> None:
    """Write ``data`` as the manifest, its files' sizes and hashes and its own digest made to fit."""
    for name, info in data["files"].items() if isinstance(data.get("files"), dict) else ():
        if isinstance(info, dict) and (folder / name).is_file():
            content = (folder / name).read_bytes()
            info["sha256"], info["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    sign_only(folder, data)


def sign_only(folder: Path, data: Json) -> None:
    """Write ``data`` as the manifest with a digest that fits, whatever it says of the files."""
    data.pop("digest", None)
    strip_prefix = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data["digest"] = hashlib.sha256(strip_prefix.encode("utf-8", "surrogatepass")).hexdigest()
    write(folder, data)


def change(path: str, value: Json) -> Spoil:
    """Set one value of the manifest (``"build.torch"``, ``"graphs.encode.buckets"``) and sign again."""

    def spoil(folder: Path) -> None:
        data = read(folder)
        *way, last = path.split(".")
        place = data
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[int(last) if isinstance(place, list) else last] = value
        sign_only(folder, data)

    return spoil


def edit(alter: Callable[[Json], Any], *, signed: bool = True) -> Spoil:
    """Alter the manifest in place, with or without signing again."""

    def spoil(folder: Path) -> None:
        data = read(folder)
        alter(data)
        (sign_only if signed else write)(folder, data)

    return spoil


def program(alter: Callable[[Json], Any]) -> Spoil:
    """Alter the portable program in place and sign again."""

    def spoil(folder: Path) -> None:
        data = read(folder, GRAPH)
        alter(data)
        write(folder, data, GRAPH)
        sign(folder, read(folder))

    return spoil


def content(name: str, data: bytes | Callable[[bytes], bytes]) -> Spoil:
    """Replace a file's bytes and sign again."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))
        sign(folder, read(folder))

    return spoil


def tensors(alter: Callable[[dict[str, Json], bytes], tuple[dict[str, Json], bytes]]) -> Spoil:
    """Alter the header and the data of the weights file and sign again."""

    def renewed(old: bytes) -> bytes:
        size = int.from_bytes(old[:8], "little")
        header, data = alter(json.loads(old[8 : 8 + size]), old[8 + size :])
        return safetensors(json.dumps(header).encode(), data)

    return content(WEIGHTS, renewed)


def safetensors(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    """A weights file; ``size`` is what it claims of its header."""
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def copy_of(artifact: Path, folder: Path) -> Path:
    """A fresh copy to spoil."""
    return Path(shutil.copytree(artifact, folder / "spoilt.precast"))


def workers() -> int:
    """Engine threads that are alive: a refused artifact must not leave one behind."""
    return sum(thread.name == "precast-worker" for thread in threading.enumerate())


def assert_refused(folder: Path, attack: Attack, good: Path) -> None:
    """``folder`` is refused as said, and ``good`` still loads and answers."""
    before = workers()
    error = refusal(folder)
    assert type(error) is attack.error, f"expected {attack.error.__name__}, found {error!r}"
    assert re.search(attack.says, str(error)), f"{attack.says!r} is not in the message: {error}"
    assert len(str(error)) < 2000, "nobody reads such a message"
    assert workers() == before, "the refused artifact left its thread behind"
    assert_serves(good)


def refusal(folder: Path) -> PrecastError | None:
    """The typed error that loading raises; None if it loads. Any other error is the test's failure."""
    try:
        precast.load(folder).close()
    except PrecastError as error:
        return error
    return None


def assert_serves(artifact: Path) -> None:
    with precast.load(artifact) as engine:
        answer = engine.encode([2, 5, 3])
    found = [a for a in (answer.embedding, answer.logits, answer.hidden) if a is not None]
    assert len(found) == 1 and np.isfinite(found[0]).all()
