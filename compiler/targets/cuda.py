"""Target ``cuda``: Triton kernels for attention, pooling and small batches; else cuBLAS and Inductor."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from precast.artifacts import host
from precast.artifacts.build_info import CudaInfo
from precast.compiler.errors import CompileError

if find_spec("triton") is None:
    raise CompileError(
        "compiling for cuda needs triton, found none; pip install triton, or a CUDA build of torch"
    )

from precast.compiler.kernels.triton import cross_kv
from precast.compiler.kernels.triton.decode import TritonDecodeOps
from precast.compiler.kernels.triton.layers import with_small_batch_linear
from precast.compiler.kernels.triton.packed import TritonPackedOps
from precast.compiler.lowering.backend import Backend
from precast.compiler.models.decode_ops import DecodeOpsFactory
from precast.compiler.models.packed_ops import OpsFactory, PackedLayout, PackedOps
from precast.compiler.models.seq2seq import Seq2Seq
from precast.compiler.targets.target import LoweringOptions, Target

SMALL_BATCH = 4
"""Decode graphs tuned for at most this many sequences use the linear layers for small batches."""


def _triton_ops(layout: PackedLayout, key_positions: Tensor | None) -> PackedOps:
    return TritonPackedOps(layout)


def _packed_ops(dtype: torch.dtype, max_length: int) -> OpsFactory:
    return _triton_ops


def _decode_ops(sequences: int) -> DecodeOpsFactory:
    return partial(TritonDecodeOps, typical_num_seqs=sequences)


def _decoder(model: Seq2Seq, sequences: int) -> Seq2Seq:
    return with_small_batch_linear(model) if sequences <= SMALL_BATCH else model


def _capability(options: LoweringOptions) -> tuple[int, int]:
    """Return the compute capability to compile for: the option's, by default that of this machine's device.

    Raises:
        CompileError: Torch was built without CUDA, or finds no device.
    """
    if host.cuda_release() is None:
        raise CompileError(
            "device cuda needs a CUDA build of torch, found a build for the cpu only; install another torch"
        )
    capability = options.architecture or host.compute_capability()
    if capability is None:
        raise CompileError(
            "device cuda needs a GPU, found none; to compile for another machine's GPU, pass its "
            "architecture: --device cuda:sm_90 --no-verify"
        )
    return capability


def _backend(options: LoweringOptions) -> Backend:
    capability = _capability(options)
    if options.architecture is not None:
        # Imported here because it patches names that a CPU build of torch lacks.
        from precast.compiler.lowering.cross import inductor_cross

        return inductor_cross(capability)
    from precast.compiler.lowering.inductor_cuda import inductor_cuda

    return inductor_cuda(capability=capability, autotune=options.autotune)


def _cuda_info(options: LoweringOptions) -> CudaInfo:
    return CudaInfo(release=str(host.cuda_release()), compute_capability=_capability(options))


TARGET = Target(
    name="cuda",
    device="cuda",
    backend_name="inductor",
    dtypes=("fp32", "bf16", "fp16"),
    backend=_backend,
    packed_ops=_packed_ops,
    decode_ops=_decode_ops,
    write_source=cross_kv.write_source,
    decoder=_decoder,
    traces_each_size=True,
    cuda=_cuda_info,
)
