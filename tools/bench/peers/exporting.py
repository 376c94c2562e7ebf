"""The Hugging Face model as a ``torch.export`` program, from which ONNX and OpenVINO models are converted.

transformers may skip the attention mask if nothing in the example batch is masked, and the exported model
then attends to padding. So the example has padding, its sizes are dynamic, and the program is compared with
the model at other sizes before it is converted.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from precast.tools.bench.peers.contender import Subject
from precast.tools.bench.peers.hf_model import HuggingFaceModel
from precast.tools.bench.peers.padded import padded

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "output"
_SIZES = ((1, 1), (1, 5), (2, 9), (5, 16))
"""Batch size and length; none equals that of the example, and each is 1 at least once."""


def exported(subject: Subject) -> ExportedProgram:
    """Return the model in fp32, exported for batches of any size.

    Raises:
        RuntimeError: its outputs for padded batches differ from those of the model.
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
    """Export the model to an ONNX file and return its path."""
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
    """Return random token ids and their mask, with inputs of different lengths, the longest one first."""
    rng = np.random.default_rng(length)
    lengths = itertools.islice(itertools.cycle((length, max(1, length // 2), 1)), batch)
    ids, mask = padded([rng.integers(0, vocabulary, size).tolist() for size in lengths], subject.pad_id)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _check(output: Tensor, expected: Tensor, mask: Tensor, subject: Subject) -> None:
    rows = (output[mask.bool()], expected[mask.bool()]) if subject.per_token else (output, expected)
    if not torch.allclose(*rows, rtol=1e-3, atol=1e-3):
        worst = (rows[0] - rows[1]).abs().max().item()
        raise RuntimeError(
            f"the exported model's outputs for padded batches differ from the model's by {worst:.2g}"
        )
