"""Which backend the options ask for."""

from __future__ import annotations

from precast.artifacts import host
from precast.compiler.errors import CompileError
from precast.compiler.lowering.backend import Backend
from precast.compiler.lowering.inductor_cpu import inductor_cpu
from precast.compiler.lowering.reference import reference
from precast.compiler.options import CompileOptions


def select_backend(options: CompileOptions) -> Backend:
    """The backend for the device, with its settings.

    Raises:
        CompileError: there is no such device here.
    """
    if options.backend == "reference":
        return reference()
    if options.device_kind == "cpu":
        return inductor_cpu(
            prepack=options.prepack, autotune=options.autotune, dtype=options.dtype, kernels=options.kernels
        )
    capability = compute_capability(options)
    # Triton comes with a CUDA build of torch alone.
    if options.architecture is not None:
        from precast.compiler.lowering.cross import inductor_cross

        return inductor_cross(capability)
    from precast.compiler.lowering.inductor_cuda import inductor_cuda

    return inductor_cuda(capability=capability, autotune=options.autotune)


def compute_capability(options: CompileOptions) -> tuple[int, int]:
    """That of the device here, or the one that was named.

    Raises:
        CompileError: torch was built without CUDA, or sees no device.
    """
    if host.cuda_release() is None:
        raise CompileError(
            f"device {options.device} needs a CUDA build of torch, this one is for the cpu alone"
        )
    found = options.architecture or host.compute_capability()
    if found is None:
        raise CompileError(
            "device cuda needs a GPU, torch sees none; to build for one that is elsewhere, name its "
            "architecture: --device cuda:sm_90 --no-verify"
        )
    return found
