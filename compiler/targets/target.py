"""What a target is."""

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
    """What the backend of a target depends on, besides the graph.

    Attributes:
        dtype: of the weights.
        prepack: whether weights are stored inside the graph.
        autotune: whether to search for the fastest matrix multiplications; None leaves it to the target.
        architecture: compute capability of a CUDA device that is not here; None for the one of this machine.
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
    """A device with the kernels and the backend that serve it.

    Everything that a target does in its own way is one of these attributes; nothing else in the compiler
    asks which target it has.

    Attributes:
        name: its key in the registry, written to the manifest.
        device: the kind of device that runs its graphs.
        backend_name: the backend that an option or a manifest names.
        dtypes: what weights may be stored and computed in.
        backend: makes the backend for some options. Raises CompileError if this machine cannot build for it.
        packed_ops: from dtype and longest input to the operations within packed sequences.
        decode_ops: from a typical number of sequences to the operations of a decode step.
        write_source: writes a source's keys and values into the cross-attention KV cache.
        instruction_sets: of the processor, by dtype, that its kernels need.
        quantizations: instruction sets needed by each quantization that it supports.
        decoder: the decoder to trace for a typical number of sequences, over the same parameters.
        traces_each_size: whether ``decode_ops`` or ``decoder`` depend on the number of sequences.
        portable: whether its graphs run on any machine, so that times measured on this one say nothing.
        cuda: the CUDA release and compute capability that its graphs need.
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
        """Check that the target supports what is asked for, on this machine.

        Raises:
            CompileError: it does not.
        """
        if options.dtype not in self.dtypes:
            raise CompileError(
                f"target {self.name} computes in {' or '.join(self.dtypes)}, found dtype {options.dtype}"
            )
        needed = self.instruction_sets.get(options.dtype, frozenset())
        if quantize is not None:
            if quantize not in self.quantizations:
                raise CompileError(f"target {self.name} has no quantization {quantize}; leave quantize out")
            if not options.prepack and not self.portable:
                raise CompileError(
                    "quantize stores weights inside the graph; expected prepack, found --no-prepack"
                )
            needed |= self.quantizations[quantize]
        missing = sorted(needed - host.instruction_sets())
        if missing:
            raise CompileError(
                f"target {self.name} needs a processor with {', '.join(missing)}; this one lacks them"
                + (", so leave quantize out" if quantize is not None else "")
            )
