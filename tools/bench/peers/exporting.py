"""Hugging Face's model as a ``torch.export`` program, from which ONNX and OpenVINO models are made.

transformers may leave the mask out where the batch that it sees has nothing to mask: a trace with such a
batch gives a model that takes padding for text. So the example is ragged, the sizes are symbolic, and the
program is held against the model at other sizes before anyone converts it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from precast.tools.bench.peers.hf_model import HuggingFaceModel
from precast.tools.bench.peers.contender import Subject
from precast.tools.bench.peers.padded import padded

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "answer"
_SIZES = ((1, 1), (1, 5), (2, 9), (5, 16))
"""Batch and length: one of each, and none of the example's."""


def exported(subject: Subject) -> ExportedProgram:
    """The model in fp32 for batches of any size.

    Raises:
        RuntimeError: its answers to padded batches are not the model's.
    """
    torch.set_num_threads(subject.threads)
    model = HuggingFaceModel(subject, torch.float32).eval()
    vocabulary = model.model.config.vocab_size
    example = random_batch(subject, vocabulary, 3, 7)
    sizes = {0: Dim.AUTO, 1: Dim.AUTO}
    with torch.no_grad():
        program = torch.export.export(model, example, dynamic_shapes=(sizes, sizes))
        loose = program.module()
        for batch, length in _SIZES:
            given = random_batch(subject, vocabulary, batch, length)
            _check(loose(*given), model(*given), given[1], subject)
    return program


def onnx_model(subject: Subject, path: Path) -> Path:
    """Write it as ONNX."""
    sizes = {0: "batch", 1: "length"}
    program = torch.onnx.export(
        exported(subject), dynamo=True, input_names=list(INPUTS), output_names=[OUTPUT], verbose=False,
        dynamic_shapes=(sizes, sizes),
    )  # fmt: skip
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))
    return path


def random_batch(subject: Subject, vocabulary: int, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask; where there is room, inputs are of different lengths, the first the longest."""
    draw = np.random.default_rng(length)
    lengths = itertools.islice(itertools.cycle((length, max(1, length // 2), 1)), batch)
    ids, mask = padded([draw.integers(0, vocabulary, size).tolist() for size in lengths], subject.pad_id)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _check(found: Tensor, wanted: Tensor, mask: Tensor, subject: Subject) -> None:
    rows = (found[mask.bool()], wanted[mask.bool()]) if subject.per_token else (found, wanted)
    if not torch.allclose(*rows, rtol=1e-3, atol=1e-3):
        worst = (rows[0] - rows[1]).abs().max().item()
        raise RuntimeError(
            f"the exported model does not answer padded batches as the model: off by {worst:.2g}"
        )
