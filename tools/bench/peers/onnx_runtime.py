"""ONNX Runtime in fp32, and in int8 with dynamically quantized activations."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precast.tools.bench.peers.contender import Contender, Subject, UnsupportedTask
from precast.tools.bench.peers.padded import PaddedEngine, bare_tokenizer

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("onnxruntime", "onnx", "onnxscript")
Kind = Literal["fp32", "int8"]


def contenders(subject: Subject) -> list[Contender]:
    """Return one contender for each precision."""
    if subject.task == "generate":
        raise UnsupportedTask("it runs graphs and has no generate")
    kinds: tuple[Kind, ...] = ("fp32", "int8")
    return [
        Contender(
            f"ONNX Runtime {kind}",
            "onnxruntime",
            kind,
            partial(engine, subject, kind),
            ("onnxruntime", "tokenizers"),
            prepare=partial(prepare, subject, kind),
        )
        for kind in kinds
    ]


def prepare(subject: Subject, kind: Kind) -> Path:
    """Export the model, and quantize it for int8, unless the file exists; return its path."""
    path = _path(subject, kind)
    if path.is_file():
        return path
    if kind == "fp32":
        from precast.tools.bench.peers.exporting import onnx_model

        return onnx_model(subject, path)
    return _quantize(prepare(subject, "fp32"), path)


def engine(subject: Subject, kind: Kind) -> PaddedEngine:
    """Return an engine around a session of the exported model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(_path(subject, kind)), options, providers=["CPUExecutionProvider"]
    )

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        output: np.ndarray = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return output

    return PaddedEngine(subject, run, bare_tokenizer(subject))


def _quantize(exact: Path, path: Path) -> Path:
    """Quantize weights to int8 per channel; activations are quantized at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(exact), str(ready), skip_symbolic_shape=True)
        model = onnx.load(ready)
        del model.graph.value_info[:]  # shapes inferred before optimization are wrong afterwards
        onnx.save(model, ready)
        quantize_dynamic(ready, path, weight_type=QuantType.QInt8, per_channel=True)
    return path


def _path(subject: Subject, kind: Kind) -> Path:
    return subject.folder / "onnx" / f"{kind}.onnx"
