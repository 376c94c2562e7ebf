"""An ``encode`` graph for the fake device with predictable outputs, and replays of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from precast.graphs.buckets import Buckets
from precast.graphs.encode import TOKENS, EncodeLimits, EncodeOutput, Task, encode_output, encode_signature
from precast.graphs.signature import Signature
from precast.runtime.cuda.replay import CapturedReplay, CaptureOptions
from precast.runtime.encoder.packing import fill_example
from precast.runtime.io.tokens import Tokens
from tests.support.fake_device import FakeDevice

SIZE = 4
BUCKETS = (4, 8, 12, 16, 32)
LIMITS = EncodeLimits(max_length=20, max_tokens=90, max_batch=6)


@dataclass(frozen=True)
class FakeEncoder:
    """Computes ``expected`` from its input tensors, and checks that they are valid."""

    device: FakeDevice
    output: EncodeOutput

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        rows = len(inputs["input_ids"]) if self.output.per_token else len(inputs["cu_seqlens"]) - 1
        return self.device.kernel(self.compute, inputs, [(rows, SIZE)])

    def compute(self, inputs: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> None:
        ids, types = inputs["input_ids"].numpy(), inputs["token_type_ids"].numpy()
        ends, prompts = inputs["cu_seqlens"].numpy(), inputs["prompt_lengths"].numpy()
        lengths = np.diff(ends)
        assert ends[0] == 0 and 0 < ends[-1] <= len(ids) and (lengths >= 0).all(), f"cu_seqlens {ends}"
        assert (ids >= 0).all() and (types >= 0).all() and (prompts >= 0).all(), "inputs below zero"
        assert (prompts[lengths == 0] == 0).all() and not ids[ends[-1] :].any(), "spare inputs are not zero"
        target = outputs[0].numpy()
        for row, (start, end) in enumerate(pairwise(ends)):
            tokens = Tokens(ids[start:end], types[start:end], prompt_length=int(prompts[row]))
            target[slice(start, end) if self.output.per_token else row] = expected(tokens, self.output)


def expected(tokens: Tokens, output: EncodeOutput) -> np.ndarray:
    """Return the output of an input, fp32 ``[4]`` or ``[n, 4]``, which depends on all of the input."""
    types = np.zeros(len(tokens), np.int64) if tokens.types is None else tokens.types.astype(np.int64)
    positions = np.arange(1, len(tokens) + 1)
    ids = tokens.ids.astype(np.int64)
    if not output.per_token:
        row = [(ids * positions).sum() % 99_991, len(ids), (types * positions).sum(), tokens.prompt_length]
        return np.array(row, np.float32)
    rows = [ids, positions, types, np.full(len(ids), 100 * len(ids) + tokens.prompt_length)]
    return np.stack(rows, axis=1).astype(np.float32)


def fake_signature(task: Task = "embed", limits: EncodeLimits = LIMITS) -> Signature:
    output = encode_output(task, SIZE)
    return encode_signature(limits, output, device="cuda", token_types=True, prompt_lengths=True)


def fake_replay(
    device: FakeDevice, task: Task = "embed", *, batch_tokens: int = 90, upto: int = 1000
) -> CapturedReplay:
    """Return a replay with few small buckets, so that batches use all of them and exceed them."""
    signature = fake_signature(task)
    largest = {axis.name: axis.maximum for axis in signature.axes}
    options = CaptureOptions(
        largest={**largest, TOKENS: max(batch_tokens, LIMITS.max_length)},
        upto=upto,
        fill_example=partial(fill_example, max_length=LIMITS.max_length),
    )
    graph = FakeEncoder(device, encode_output(task, SIZE))
    return CapturedReplay(signature, graph, Buckets(TOKENS, BUCKETS), device, options)


def random_tokens(random: np.random.Generator, length: int) -> Tokens:
    typed = random.random() < 0.5
    return Tokens(
        random.integers(0, 1000, length, dtype=np.int32),
        random.integers(0, 2, length, dtype=np.int32) if typed else None,
        prompt_length=int(random.integers(0, length + 1)),
    )


def rows_of(batch: Sequence[Tokens], outputs: Sequence[Tensor], output: EncodeOutput) -> list[np.ndarray]:
    """Return a copy of the output of each input."""
    (output_tensor,) = outputs
    assert output_tensor.dtype == torch.float32
    if not output.per_token:
        return list(output_tensor.numpy()[: len(batch)].copy())
    ends = np.cumsum([len(item) for item in batch])
    return np.split(output_tensor.numpy()[: ends[-1]].copy(), ends[:-1])
