"""How an operator is called in C++: what a kernel's header and its call look like, for the lowering."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_LOCAL = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)
TYPES = {torch.float32: "precast::Fp32", torch.bfloat16: "precast::Bf16"}
"""The product of two such numbers, see ``tile.h``."""
NUMBERS = {torch.float32: "float", torch.bfloat16: "c10::BFloat16"}


@dataclass(frozen=True)
class Operand:
    """A tensor as C++ sees it; sizes and strides are expressions."""

    at: str
    """A pointer to its first number."""
    dtype: torch.dtype
    sizes: tuple[str, ...]
    strides: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """An operator in C++.

    Attributes:
        operator: that is replaced.
        header: beside this file.
        strided: tensor arguments of which only the last dimensions, so many, must be contiguous; all others
            are wholly so.
        call: the statement, from tensors by argument (None where left out), the output under ``out``, and
            the other arguments.
    """

    operator: Any
    header: str
    strided: Mapping[str, int]
    call: Callable[[Mapping[str, Operand | None], Mapping[str, Any]], str]


def pointer(operand: Operand | None) -> str:
    return "nullptr" if operand is None else operand.at


def source(header: str) -> str:
    """The header with those beside it that it includes, each where it is first named."""
    seen: set[str] = set()

    def read(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (Path(__file__).parent / name).read_text("utf-8")
        return _LOCAL.sub(lambda found: read(found[1]), text)

    return read(header)
