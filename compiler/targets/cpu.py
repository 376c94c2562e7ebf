"""Target ``cpu``: any CPU. Plain torch operators, which Inductor fuses into C++."""

from __future__ import annotations

from functools import partial

import torch

from precast.compiler.kernels.torch.decode import TorchDecodeOps
from precast.compiler.kernels.torch.packed import TorchPackedOps
from precast.compiler.lowering.backend import Backend
from precast.compiler.lowering.inductor_cpu import inductor_cpu
from precast.compiler.models.decode_ops import DecodeOpsFactory
from precast.compiler.models.packed_ops import OpsFactory
from precast.compiler.targets.target import LoweringOptions, Target


def padded_ops(dtype: torch.dtype, max_length: int) -> OpsFactory:
    """Return the factory of packed operators in plain torch, which pad to the longest input of a batch."""
    return partial(TorchPackedOps, dtype=dtype, max_length=max_length)


def gathered_ops(sequences: int) -> DecodeOpsFactory:
    """Return the factory of decode operators in plain torch, which gather KV cache slots."""
    return TorchDecodeOps


def _backend(options: LoweringOptions) -> Backend:
    return inductor_cpu(prepack=options.prepack, autotune=options.autotune, dtype=options.dtype)


TARGET = Target(
    name="cpu",
    device="cpu",
    backend_name="inductor",
    dtypes=("fp32", "bf16"),
    backend=_backend,
    packed_ops=padded_ops,
    decode_ops=gathered_ops,
)
