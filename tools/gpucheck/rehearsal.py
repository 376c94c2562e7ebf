"""A workaround for rehearsals, which run Triton kernels in its interpreter."""

from __future__ import annotations

import os


def repair_interpreter() -> None:
    """Make loops with computed bounds work in Triton's interpreter; do nothing if it is not in use.

    Triton 3.6 converts an array with one element to an integer, which NumPy 2.4 no longer supports.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: object, scope: object) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patch_with_index
