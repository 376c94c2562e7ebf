"""OpenVINO in fp32 and bf16."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precast.tools.bench.peers.contender import Contender, Subject, UnsupportedTask
from precast.tools.bench.peers.padded import PaddedEngine, bare_tokenizer

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("openvino",)
Kind = Literal["fp32", "bf16"]
_HINTS = {"fp32": "f32", "bf16": "bf16"}


def contenders(subject: Subject) -> list[Contender]:
    """Return one contender for each precision; both load the same converted model."""
    if subject.task == "generate":
        raise UnsupportedTask("it runs graphs and has no generate")
    kinds: tuple[Kind, ...] = ("fp32", "bf16")
    return [
        Contender(
            f"OpenVINO {kind}",
            "openvino",
            kind,
            partial(engine, subject, kind),
            ("openvino", "tokenizers"),
            prepare=partial(prepare, subject),
        )
        for kind in kinds
    ]


def prepare(subject: Subject) -> Path:
    """Convert the model with fp32 weights unless the file exists; return its path."""
    path = _path(subject)
    if path.is_file():
        return path
    import openvino

    from precast.tools.bench.peers.exporting import exported

    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.convert_model(exported(subject)), path, compress_to_fp16=False)
    return path


def engine(subject: Subject, kind: Kind) -> PaddedEngine:
    """Return an engine around a compiled model that runs one request at a time."""
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": _HINTS[kind],
        "INFERENCE_NUM_THREADS": subject.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(_path(subject)), "CPU", hints)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        # The output is in memory of the request, which the next call overwrites.
        output: np.ndarray = compiled([ids, mask])[0].copy()
        return output

    return PaddedEngine(subject, run, bare_tokenizer(subject))


def _path(subject: Subject) -> Path:
    return subject.folder / "openvino" / "model.xml"
