"""Target ``cpu-avx512``: C++ kernels for linear layers, norms and attention, and Inductor for the rest."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from precast.compiler.kernels.avx512 import decode, linear, linear_int8, log_softmax, norm, packed
from precast.compiler.kernels.avx512.decode import Avx512DecodeOps
from precast.compiler.kernels.avx512.layers import WhichLinear, with_cpp_layers
from precast.compiler.kernels.avx512.packed import Avx512PackedOps
from precast.compiler.lowering.backend import Backend
from precast.compiler.lowering.inductor_cpu import inductor_cpu, searches_by_default
from precast.compiler.models.decode_ops import DecodeOpsFactory
from precast.compiler.models.packed_ops import OpsFactory, PackedLayout, PackedOps
from precast.compiler.targets.target import LoweringOptions, Target

KERNELS = (
    linear.LINEAR,
    linear_int8.LINEAR_INT8,
    packed.ATTENTION,
    packed.POOL,
    decode.DECODE_ATTENTION,
    norm.NORM,
    log_softmax.LOG_SOFTMAX_TERMS,
)


def _sequence_ops(layout: PackedLayout, key_positions: Tensor | None) -> PackedOps:
    return Avx512PackedOps(layout)


def _packed_ops(dtype: torch.dtype, max_length: int) -> OpsFactory:
    return _sequence_ops


def _decode_ops(sequences: int) -> DecodeOpsFactory:
    return Avx512DecodeOps


def _backend(options: LoweringOptions) -> Backend:
    """With ``prepack``, norms and linear layers use the C++ kernels too, unless they are autotuned."""
    autotune = searches_by_default(options.dtype) if options.autotune is None else options.autotune
    which: WhichLinear = "none" if not options.prepack else "quantized" if autotune else "all"
    return inductor_cpu(
        prepack=options.prepack,
        autotune=autotune,
        dtype=options.dtype,
        kernels=KERNELS,
        replace_layers=partial(with_cpp_layers, linear=which),
    )


TARGET = Target(
    name="cpu-avx512",
    device="cpu",
    backend_name="inductor",
    dtypes=("fp32", "bf16"),
    backend=_backend,
    packed_ops=_packed_ops,
    decode_ops=_decode_ops,
    instruction_sets={
        "fp32": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
        "bf16": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"}),
    },
    quantizations={"int8": frozenset({"avx512_vnni"})},
)
