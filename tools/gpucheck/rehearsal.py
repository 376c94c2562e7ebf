"""What a rehearsal on a CPU needs besides tiny sizes."""

from __future__ import annotations

import os


def repair_interpreter() -> None:
    """Let interpreted kernels loop up to a bound that they computed; where none is interpreted, do nothing.

    Triton 3.6 makes an integer of an array of one number, which NumPy refuses from 2.4 on.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: object, scope: object) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patch_with_index
