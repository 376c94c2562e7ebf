"""All peers, by their names in ``--against``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from precast.tools.bench.peers import (
    ctranslate2_peer,
    hugging_face,
    onnx_runtime,
    open_vino,
    sentence_transformer,
    torch_compile,
)
from precast.tools.bench.peers.contender import Contender, Skipped, Subject, UnsupportedTask


@dataclass(frozen=True)
class Peer:
    """The packages that a peer imports, and a function that returns its contenders."""

    needs: tuple[str, ...]
    contenders: Callable[[Subject], list[Contender]]


PEERS: dict[str, Peer] = {
    "hf": Peer(hugging_face.NEEDS, hugging_face.contenders),
    "compile": Peer(hugging_face.NEEDS, torch_compile.contenders),
    "sentence-transformers": Peer(sentence_transformer.NEEDS, sentence_transformer.contenders),
    "onnxruntime": Peer(onnx_runtime.NEEDS, onnx_runtime.contenders),
    "openvino": Peer(open_vino.NEEDS, open_vino.contenders),
    "ctranslate2": Peer(ctranslate2_peer.NEEDS, ctranslate2_peer.contenders),
}


def gather(names: Sequence[str], subject: Subject) -> tuple[list[Contender], list[Skipped]]:
    """Return the contenders of some peers, and the peers that have none.

    Args:
        names: names in ``PEERS``.
        subject: the model to run.
    """
    contenders: list[Contender] = []
    skipped: list[Skipped] = []
    for name in names:
        missing = [package for package in PEERS[name].needs if find_spec(package) is None]
        if missing:
            reason = f"{', '.join(missing)} not installed: pip install 'precast[bench]'"
            skipped.append(Skipped(name, reason))
            continue
        try:
            contenders += PEERS[name].contenders(subject)
        except UnsupportedTask as error:
            skipped.append(Skipped(name, str(error)))
    return contenders, skipped
