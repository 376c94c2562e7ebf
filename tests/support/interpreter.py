"""Triton's interpreter: kernels run as Python on CPU tensors when TRITON_INTERPRET=1 was set before they were
imported.

It is silently wrong for bf16 (a product gives garbage, a sum NaN), so no test runs bf16 through it.
"""

from __future__ import annotations

from typing import Any

import triton.runtime.interpreter as interpreter

_patch_lang_tensor = interpreter._patch_lang_tensor


def _patch_with_index(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def repair() -> None:
    """Lets a loop run to a bound that a kernel computed.

    Triton 3.6 makes an integer of an array of one number, which NumPy refuses from 2.4 on.
    """
    interpreter._patch_lang_tensor = _patch_with_index
