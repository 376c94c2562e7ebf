"""Target ``reference``: any machine with torch. The traced operators are stored as a portable program."""

from __future__ import annotations

from precast.compiler.lowering.backend import Backend
from precast.compiler.lowering.reference import reference
from precast.compiler.targets.cpu import gathered_ops, padded_ops
from precast.compiler.targets.target import LoweringOptions, Target


def _backend(options: LoweringOptions) -> Backend:
    return reference()


TARGET = Target(
    name="reference",
    device="cpu",
    backend_name="reference",
    dtypes=("fp32", "bf16"),
    backend=_backend,
    packed_ops=padded_ops,
    decode_ops=gathered_ops,
    quantizations={"int8": frozenset()},
    portable=True,
)
