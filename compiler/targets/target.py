"""``Target``: a device with its kernels and its backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from precast.artifacts import host
from precast.artifacts.build_info import CudaInfo
from precast.compiler.errors import CompileError
from precast.compiler.lowering.backend import Backend
from precast.compiler.models.decode_ops import DecodeOpsFactory, SourceWriter, write_source
from precast.compiler.models.packed_ops import OpsFactory
from precast.compiler.models.seq2seq import Seq2Seq
from precast.graphs.encode import Device, Dtype, Quantization


@dataclass(frozen=True)
class LoweringOptions:
    """The options that a target's backend depends on.

    Attributes:
        dtype: dtype of the weights.
        prepack: whether weights are stored inside the graph.
        autotune: whether to search for the fastest matrix multiplications; None for the target's default.
        architecture: compute capability to cross-compile for; None for the CUDA device of this machine.
    """

    dtype: Dtype
    prepack: bool
    autotune: bool | None
    architecture: tuple[int, int] | None


def _without_cuda(options: LoweringOptions) -> CudaInfo | None:
    return None


def _unchanged(model: Seq2Seq, sequences: int) -> Seq2Seq:
    return model


@dataclass(frozen=True)
class Target:
    """A device with its kernels and its backend.

    All differences between targets are attributes; the rest of the compiler does not distinguish targets.

    Attributes:
        name: key in the registry, written to the manifest.
        device: device kind that runs the graphs.
        backend_name: name of the backend in options and manifest.
        dtypes: supported dtypes of weights and computation.
        backend: returns the backend for the options. Raises CompileError if this machine cannot use it.
        packed_ops: returns the factory of packed operators for a dtype and the longest input in tokens.
        decode_ops: returns the factory of decode operators, tuned for a number of sequences.
        write_source: writes a source's keys and values into the cross-attention KV cache.
        instruction_sets: required instruction sets of the processor, by dtype.
        quantizations: supported quantizations, each with the instruction sets that it requires.
        decoder: returns the decoder to trace, tuned for a number of sequences, with the same parameters.
        traces_each_size: whether ``decode_ops`` or ``decoder`` depend on the number of sequences.
        portable: whether the graphs run on any machine; their times on this one are not profiled then.
        cuda: returns the CUDA release and the compute capability that the graphs need; None on other devices.
    """

    name: str
    device: Device
    backend_name: str
    dtypes: tuple[Dtype, ...]
    backend: Callable[[LoweringOptions], Backend]
    packed_ops: Callable[[torch.dtype, int], OpsFactory]
    decode_ops: Callable[[int], DecodeOpsFactory]
    write_source: SourceWriter = write_source
    instruction_sets: Mapping[Dtype, frozenset[str]] = field(default_factory=dict)
    quantizations: Mapping[Quantization, frozenset[str]] = field(default_factory=dict)
    decoder: Callable[[Seq2Seq, int], Seq2Seq] = _unchanged
    traces_each_size: bool = False
    portable: bool = False
    cuda: Callable[[LoweringOptions], CudaInfo | None] = _without_cuda

    def check(self, options: LoweringOptions, quantize: Quantization | None) -> None:
        """Check that the target supports the options on this machine.

        Raises:
            CompileError: The target lacks the dtype or the quantization, or the processor an instruction set.
        """
        if options.dtype not in self.dtypes:
            raise CompileError(
                f"target {self.name} expects dtype {' or '.join(self.dtypes)}, found {options.dtype}"
            )
        needed = self.instruction_sets.get(options.dtype, frozenset())
        if quantize is not None:
            if quantize not in self.quantizations:
                raise CompileError(
                    f"target {self.name} does not support quantization {quantize}; remove the option quantize"
                )
            if not options.prepack and not self.portable:
                raise CompileError(
                    "quantize stores weights inside the graph; expected prepack, found --no-prepack"
                )
            needed |= self.quantizations[quantize]
        missing = sorted(needed - host.instruction_sets())
        if missing:
            raise CompileError(
                f"target {self.name} needs a processor with {', '.join(missing)}, which this one lacks"
                + ("; remove the option quantize" if quantize is not None else "")
            )
