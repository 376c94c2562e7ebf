"""Reads the weights file, with checks that safetensors does not make."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from precast.artifacts.errors import OversizedError, WeightsError
from precast.graphs import strict_json

MAX_HEADER_BYTES = 8 << 20
"""Enough for some 60,000 tensors. Parsing time and memory grow faster than the header."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Map a weights file into memory and return its tensors by name.

    Raises:
        OversizedError: The header is larger than any artifact needs.
        WeightsError: The file is not valid safetensors, lists a tensor twice, or uses a dtype that torch
            lacks.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise OversizedError(
                f"{path.name} has a header of {size} bytes, expected at most {MAX_HEADER_BYTES}; "
                f"copy or compile the artifact again"
            )
        header = file.read(size)
    try:
        strict_json.loads(header)
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # SafetensorError, invalid JSON, nested too deep, a dtype unknown to torch
        raise WeightsError(
            f"{path.name} is not a valid safetensors file: {error}; copy or compile the artifact again"
        ) from error
