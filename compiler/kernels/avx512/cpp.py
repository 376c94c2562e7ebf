"""Descriptions of C++ kernels for the lowering: the header of an operator, and the call that replaces it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_LOCAL_INCLUDE = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)
TYPES = {torch.float32: "precast::Fp32", torch.bfloat16: "precast::Bf16"}
"""The types in ``tile.h`` that multiply two such numbers."""
NUMBERS = {torch.float32: "float", torch.bfloat16: "c10::BFloat16"}
"""The C++ types of numbers in memory."""


@dataclass(frozen=True)
class Operand:
    """A tensor in C++ code; the pointer to its first number, sizes and strides are C++ expressions."""

    at: str
    dtype: torch.dtype
    sizes: tuple[str, ...]
    strides: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """A custom operator's implementation in C++.

    Attributes:
        operator: the custom operator.
        header: file name of the header, in this folder.
        strided: by tensor argument, how many of its last dimensions must be contiguous; arguments that are
            not listed must be contiguous in all dimensions.
        call: writes the C++ statement of a call, from the tensors by argument (None for an omitted one, the
            output under ``out``) and the other arguments.
    """

    operator: Any
    header: str
    strided: Mapping[str, int]
    call: Callable[[Mapping[str, Operand | None], Mapping[str, Any]], str]


def pointer(operand: Operand | None) -> str:
    """The pointer of a tensor that may be omitted."""
    return "nullptr" if operand is None else operand.at


def source(header: str) -> str:
    """The text of a header, with the local headers that it includes inlined once each."""
    seen: set[str] = set()

    def read(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (Path(__file__).parent / name).read_text("utf-8")
        return _LOCAL_INCLUDE.sub(lambda include: read(include[1]), text)

    return read(header)
