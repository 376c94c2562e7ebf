"""The ``inductor`` backend for cross-compiling: for CUDA, on a machine without a GPU.

It needs a CUDA build of torch and nvcc, but no driver. Kernels are untuned, and graphs are compiled but never
run. It also serves as a test that every graph can be lowered.
"""

from __future__ import annotations

import copy
from functools import partial
from itertools import chain
from pathlib import Path

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from precast.compiler.errors import LoweringError
from precast.compiler.lowering.backend import Backend, CompiledFile
from precast.compiler.lowering.cuda_toolkit import needed_libraries, toolkit
from precast.compiler.lowering.fake_cuda import fake_cuda
from precast.compiler.lowering.inductor import compile_library
from precast.compiler.lowering.inductor_cuda import cuda_configuration, cuda_settings, sizes
from precast.compiler.lowering.trace import trace
from precast.graphs.signature import Signature

_DEVICE = "cuda:0"


def inductor_cross(capability: tuple[int, int]) -> Backend:
    """Return the backend that compiles with AOTInductor for a compute capability, without a device."""
    settings = cuda_settings(capability, autotune=False) | {"tuned": False}
    return Backend("inductor", ".so", settings, False, partial(_lower, capability), sizes(autotune=False))


def _lower(
    capability: tuple[int, int], module: nn.Module, signature: Signature, size: int, folder: Path
) -> CompiledFile:
    config = cuda_configuration(autotune=False) | {
        # The generated C++ refers to compiled kernels; compiling them must not measure or load anything.
        "triton.autotune_at_compile_time": True,
        "triton.autotune_pointwise": False,
        "shape_padding": False,
        "use_static_cuda_launcher": False,
        "compile_threads": 1,
        # Constant folding would compute on the device.
        "joint_graph_constant_folding": False,
    }
    with fake_cuda(capability), toolkit(folder):
        with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
            exported = trace(_on_device(module), signature, size, _DEVICE)
        _adopt(exported)
        library, constants = compile_library(exported, config, folder)
    if "libcuda.so.1" not in needed_libraries(library):
        raise LoweringError("the compiled graph does not load libcuda.so.1, whose functions it calls")
    return CompiledFile(library, "bound", constants)


def _on_device(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` with fake tensors on the device; must be called in a fake mode."""
    copies: dict[int, object] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        shape = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_DEVICE)
        is_parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(shape, requires_grad=False) if is_parameter else shape
    return copy.deepcopy(module, copies)


def _adopt(exported: ExportedProgram) -> None:
    """Replace weights and example inputs by fake tensors of the traced graph's own fake mode."""
    nodes = (node for node in exported.graph.nodes if node.op == "placeholder")
    mode = next(nodes).meta["val"].fake_mode

    def adopted(tensor: Tensor) -> Tensor:
        with mode:
            shape = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
            )
        return nn.Parameter(shape, requires_grad=False) if isinstance(tensor, nn.Parameter) else shape

    state = exported._state_dict
    for name in list(state):
        state[name] = adopted(state[name])
    exported._example_inputs = pytree.tree_map_only(Tensor, adopted, exported._example_inputs)
