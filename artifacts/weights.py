"""The weights file: reading it with the checks that safetensors leaves to its user."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from precast.artifacts.errors import OversizedError, WeightsError
from precast.graphs import strict_json

MAX_HEADER_BYTES = 8 << 20
"""Room for some 60,000 tensors. Parsing time and memory grow faster than the header."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor, mapped into memory, by name.

    Raises:
        OversizedError: the header is larger than any artifact needs.
        WeightsError: no safetensors file, a tensor is listed twice, or has a dtype that torch lacks.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise OversizedError(
                f"{path.name} has a header of {size} bytes, at most {MAX_HEADER_BYTES} are read"
            )
        header = file.read(size)
    try:
        strict_json.loads(header)
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # SafetensorError, no JSON, nested too deep, a dtype unknown to torch
        raise WeightsError(f"{path.name} is no usable safetensors file: {error}") from error
