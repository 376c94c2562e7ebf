"""How an artifact was built, and what it requires of the machine that runs it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from precast.artifacts.base import StrictModel
from precast.graphs.encode import Device, Dtype, Quantization

BACKENDS = ("inductor", "reference")
"""The file formats of graphs that this format version defines."""


class CudaInfo(StrictModel):
    """The CUDA release and the architecture that the kernels were compiled for."""

    release: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}$")]
    """The CUDA release of the torch build, such as ``13.0``."""
    compute_capability: tuple[Annotated[int, Field(ge=7, le=99)], Annotated[int, Field(ge=0, le=99)]]


def sm_name(capability: tuple[int, int]) -> str:
    """Return NVIDIA's name of an architecture, such as ``sm_90``."""
    return f"sm_{capability[0]}{capability[1]}"


class BuildInfo(StrictModel):
    """The versions, the target and the machine of a build."""

    precast: str
    torch: str
    target: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of the compilation target, for people; a runtime reads the other fields."""
    backend: Annotated[str, Field(min_length=1, max_length=64)]
    """The file format of the graphs, one of ``BACKENDS``."""
    device: Device
    dtype: Dtype
    quantization: Quantization | None
    """The type to which weights of linear layers are quantized; None if they are not."""
    architecture: str
    instruction_sets: tuple[str, ...]
    """Processor features that the machine code in the graphs may use; empty for portable graphs."""
    cuda: CudaInfo | None
    """Set if, and only if, the device is ``cuda``."""
    options: dict[str, bool | int | str]

    @property
    def precision(self) -> Dtype | Quantization:
        """The type in which linear layers multiply: ``int8``, or the dtype."""
        return self.quantization or self.dtype

    @field_validator("backend")
    @classmethod
    def _backend_is_known(cls, backend: str) -> str:
        if backend not in BACKENDS:
            raise ValueError(f"expected a backend out of {', '.join(BACKENDS)}, found {backend!r}")
        return backend

    @model_validator(mode="after")
    def _device_is_described(self) -> BuildInfo:
        if (self.device == "cuda") is (self.cuda is None):
            expected = "a CUDA release" if self.device == "cuda" else "cuda = None"
            raise ValueError(f"expected {expected} for the device {self.device}, found cuda = {self.cuda}")
        if self.device == "cuda" and self.backend == "reference":
            raise ValueError("the reference backend requires the device cpu, found cuda")
        if self.device == "cpu" and self.dtype == "fp16":
            raise ValueError("fp16 requires the device cuda, found cpu")
        if self.device == "cuda" and self.quantization is not None:
            raise ValueError(f"quantization requires the device cpu, found cuda with {self.quantization}")
        return self
