"""What an artifact was built with, and what it needs of the machine that runs it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from precast.artifacts.base import StrictModel
from precast.graphs.encode import Device, Dtype, Quantization


class CudaInfo(StrictModel):
    """What the kernels inside the graphs were compiled for."""

    release: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}$")]
    """The CUDA release that torch was built with."""
    compute_capability: tuple[Annotated[int, Field(ge=7, le=99)], Annotated[int, Field(ge=0, le=99)]]


def sm_name(capability: tuple[int, int]) -> str:
    """NVIDIA's name of an architecture: ``sm_90``."""
    return f"sm_{capability[0]}{capability[1]}"


class BuildInfo(StrictModel):
    """The versions, the target and the machine of a compilation."""

    precast: str
    torch: str
    target: Annotated[str, Field(min_length=1, max_length=64)]
    """The compilation target, for people; what a runtime needs to know is in the other fields."""
    backend: Annotated[str, Field(min_length=1, max_length=64)]
    """What runs the graphs: ``inductor`` or ``reference``."""
    device: Device
    dtype: Dtype
    quantization: Quantization | None
    """What the weights of linear layers are rounded to; None if they have the dtype."""
    architecture: str
    instruction_sets: tuple[str, ...]
    """Empty if the graphs hold no machine code of a processor, or none of its newer instructions."""
    cuda: CudaInfo | None
    """Set exactly if the device is ``cuda``."""
    options: dict[str, bool | int | str]

    @property
    def precision(self) -> Dtype | Quantization:
        """What linear layers multiply: ``int8``, or the dtype."""
        return self.quantization or self.dtype

    @model_validator(mode="after")
    def _device_is_described(self) -> BuildInfo:
        if (self.device == "cuda") is (self.cuda is None):
            raise ValueError(f"a build for {self.device} with cuda = {self.cuda}")
        if self.device == "cuda" and self.backend == "reference":
            raise ValueError("the reference backend is for the cpu")
        if self.device == "cpu" and self.dtype == "fp16":
            raise ValueError("fp16 is for cuda")
        if self.device == "cuda" and self.quantization is not None:
            raise ValueError("quantization is for the cpu")
        return self
