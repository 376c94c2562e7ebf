"""Tiny Hugging Face models and their outputs, to which tests compare."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.lowering.reference import to_program
from precast.compiler.lowering.trace import trace
from precast.compiler.models.build import Built, build_encoder, describe_model
from precast.compiler.models.encode import Encode
from precast.compiler.models.spec import ModelSpec
from precast.compiler.targets.registry import get_target
from precast.graphs.encode import EncodeLimits, Task, encode_output, encode_signature
from precast.graphs.program import Program
from precast.runtime.backends.reference import ProgramRunner

Ids = Sequence[int]
MAX_LENGTH = 256


def save(model: PreTrainedModel, folder: Path | None = None) -> Path:
    """Write ``model`` as a checkpoint after adding noise to its norms and biases.

    Initial norms are ones and initial biases zeros, which would hide a norm or bias that is not applied.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    target = folder or Path(tempfile.mkdtemp(prefix="precast-test-"))
    model.eval().save_pretrained(target)
    return target


def packed(
    sequences: Sequence[Ids], spare_tokens: int = 1, spare_sequences: int = 1
) -> dict[str, torch.Tensor]:
    """Return the static buffers of a batch: all inputs that an encode graph can have."""
    ids = [token for sequence in sequences for token in sequence] + [0] * spare_tokens
    ends = torch.tensor([0] + [len(s) for s in sequences] + [0] * spare_sequences).cumsum(0)
    longest = max(2, max(len(s) for s in sequences))
    return {
        "input_ids": torch.tensor(ids, dtype=torch.int32),
        "token_type_ids": torch.zeros(len(ids), dtype=torch.int32),
        "cu_seqlens": ends.to(torch.int32),
        "key_positions": torch.arange(longest, dtype=torch.int32),
        "prompt_lengths": torch.zeros(len(ends) - 1, dtype=torch.int32),
    }


def build(checkpoint: Path, task: Task, target: str = "cpu") -> Built[ModelSpec, Encode]:
    """Return a checkpoint's traceable module in fp32."""
    opened = open_checkpoint(str(checkpoint))
    packed_ops = get_target(target).packed_ops(torch.float32, MAX_LENGTH)
    return build_encoder(opened, describe_model(opened, task), torch.float32, packed_ops)


def reference_outputs(checkpoint: Path, task: Task, sequences: Sequence[Ids]) -> list[torch.Tensor]:
    """Return the outputs of the ``reference`` backend, from a program that was traced and serialized."""
    limits = EncodeLimits(max_length=MAX_LENGTH, max_tokens=2048, max_batch=64)
    built = build(checkpoint, task)
    output = encode_output(task, built.spec.output_size)
    token_types = built.spec.embeddings.token_types > 0
    signature = encode_signature(limits, output, device="cpu", token_types=token_types, prompt_lengths=False)
    program = Program.from_json(
        to_program(trace(built.module, signature), [buffer.name for buffer in signature.inputs]).to_json()
    )
    run = ProgramRunner(program, built.module.state_dict())
    (out,) = run(packed(sequences))
    if not output.per_token:
        return list(out[: len(sequences)])
    return list(out[: sum(map(len, sequences))].split([len(s) for s in sequences]))


def hf_outputs(model: PreTrainedModel, sequences: Sequence[Ids], output: str) -> list[torch.Tensor]:
    """Return Hugging Face's output for each sequence alone; ``output`` is the field of the model's result."""
    with torch.no_grad():
        return [model(torch.tensor([list(s)]))[output][0] for s in sequences]


def assert_close(
    outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float = 1e-4
) -> None:
    """Assert differences of at most ``tolerance`` times the largest expected magnitude (at least 1)."""
    assert len(outputs) == len(expected)
    for index, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        assert ours.shape == theirs.shape, f"item {index}: {tuple(ours.shape)} expected {tuple(theirs.shape)}"
        limit = tolerance * max(1.0, theirs.abs().max().item())
        worst = (ours.float() - theirs.float()).abs().max().item()
        assert worst <= limit, f"item {index}: differs by {worst}, allowed {limit}"


def assert_as_hf(
    outputs: Sequence[torch.Tensor], model: PreTrainedModel, sequences: Sequence[Ids], output: str
) -> None:
    """Assert that outputs equal Hugging Face's, with the tolerance of ``assert_close``.

    Random weights can produce rows that fp32 cannot compute to that tolerance: a norm of a vector near zero
    magnifies all previous rounding. The tolerance of such rows, and no others, is the change of the model's
    own output when its weights are rounded once.
    """
    expected = hf_outputs(model, sequences, output)
    assert len(outputs) == len(expected)
    for index, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        assert ours.shape == theirs.shape, f"item {index}: {tuple(ours.shape)} expected {tuple(theirs.shape)}"
        worst = (ours.float() - theirs.float()).abs().amax(-1)
        limit = torch.full_like(worst, 1e-4 * max(1.0, theirs.abs().max().item()))
        if (worst > limit).any():
            limit = limit.maximum(rounding_error(model, sequences[index], output))
        assert (worst <= limit).all(), f"item {index}: differs by {worst}, allowed {limit}"


def rounding_error(model: PreTrainedModel, sequence: Ids, output: str, samples: int = 8) -> torch.Tensor:
    """Return how much each row of the fp64 output changes if weights change by one fp32 rounding step."""
    generator = torch.Generator().manual_seed(11)
    (exact,) = hf_outputs(copy.deepcopy(model).double(), [sequence], output)
    errors = [torch.zeros(exact.shape[:-1])]
    for _ in range(samples):
        rounded = copy.deepcopy(model).double()
        with torch.no_grad():
            for parameter in rounded.parameters():
                units = torch.randint(-1, 2, parameter.shape, generator=generator)
                parameter.mul_(1 + units * torch.finfo(torch.float32).eps)
        errors.append((hf_outputs(rounded, [sequence], output)[0] - exact).abs().amax(-1).float())
    return torch.stack(errors).amax(0)
