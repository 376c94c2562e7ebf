"""Compiles kernels for GPUs that need not be present, as a launch would, and inspects their machine code.

Reads a JSON list of kernels from standard input and writes a JSON list of findings to standard output. It
runs in a separate process, because kernels in interpreter mode cannot be compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from precast.compiler.kernels.triton import cross_kv, decode_attention, layers, packed_attention, segment_pool

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
POINTERS = {torch.int32: "*i32"} | {dtype: f"*{name}" for name, dtype in DTYPES.items()}
TOKENS, SEQUENCES, HEADS, KV_HEADS, MAX_DISTANCE = 8197, 33, 12, 4, 128
NUM_SEQS, STATE_SEQS, SLOTS = 33, 64, 8192


def meta(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launch_attention(dtype: str, head_dim: int, biased: bool) -> None:
    fused = meta(TOKENS, HEADS + 2 * KV_HEADS, head_dim, dtype=DTYPES[dtype])
    query, key, value = fused.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
    bias = meta(HEADS, 2 * MAX_DISTANCE + 1, dtype=torch.float32) if biased else None
    packed_attention.launch_packed_attention(query, key, value, meta(TOKENS), meta(TOKENS), bias, 0.125)


def launch_pool(dtype: str, maximum: bool, weighted: bool) -> None:
    rows, weight = meta(TOKENS, 768, dtype=DTYPES[dtype]), meta(TOKENS, dtype=torch.float32)
    bounds = meta(SEQUENCES), meta(SEQUENCES)
    segment_pool._launch(rows, *bounds, weight if weighted else None, maximum)


def launch_decode_self(dtype: str, head_dim: int, biased: bool, splits: int) -> None:
    query, key, value = meta(NUM_SEQS, 3, HEADS, head_dim, dtype=DTYPES[dtype]).unbind(1)
    keys, values = (meta(SLOTS, HEADS, head_dim, dtype=DTYPES[dtype]) for _ in range(2))
    bias = meta(HEADS, 2 * MAX_DISTANCE + 1, dtype=torch.float32) if biased else None
    decode_attention.launch_self_attention(
        query,
        key,
        value,
        keys,
        values,
        meta(STATE_SEQS, 512),
        meta(NUM_SEQS),
        meta(STATE_SEQS),
        bias,
        0.125,
        splits,
    )


def launch_decode_cross(dtype: str, head_dim: int, splits: int) -> None:
    query = meta(NUM_SEQS, HEADS, head_dim, dtype=DTYPES[dtype])
    keys, values = (meta(SLOTS, HEADS, head_dim, dtype=DTYPES[dtype]) for _ in range(2))
    decode_attention.launch_cross_attention(
        query, keys, values, meta(STATE_SEQS, 512), meta(NUM_SEQS), meta(STATE_SEQS), 0.125, splits
    )


def launch_small_batch_linear(dtype: str, columns: int, biased: bool) -> None:
    x, weight = meta(3, 1024, dtype=DTYPES[dtype]), meta(columns, 1024, dtype=DTYPES[dtype])
    layers.launch_small_batch_linear(x, weight, meta(columns, dtype=DTYPES[dtype]) if biased else None)


def launch_project(dtype: str, biased: bool) -> None:
    hidden, weight = meta(TOKENS, 1024, dtype=DTYPES[dtype]), meta(2 * 768, 1024, dtype=DTYPES[dtype])
    keys, values = (meta(SLOTS, HEADS, 64, dtype=DTYPES[dtype]) for _ in range(2))
    bias = meta(2 * 768, dtype=DTYPES[dtype]) if biased else None
    cross_kv.launch_project(hidden, weight, bias, keys, values, meta(TOKENS))


LAUNCHES: dict[str, Callable[..., None]] = {
    "attention": launch_attention,
    "pool": launch_pool,
    "decode_self": launch_decode_self,
    "decode_cross": launch_decode_cross,
    "small_batch_linear": launch_small_batch_linear,
    "project": launch_project,
}


def recorded(kernel: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The launch of ``kernel``: the Triton function, its arguments and its constants.

    If there are several, ``kernel["launch"]`` is the index.
    """
    launches: list[Any] = []

    def record(function: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        launches.append((function, arguments, constants))

    with ExitStack() as patches:
        for module in (packed_attention, segment_pool, decode_attention, layers, cross_kv):
            patches.enter_context(patch.object(module, "launch", record))
        LAUNCHES[kernel["name"]](**kernel["arguments"])
    return launches[kernel.get("launch", 0)]


def compiled(kernel: dict[str, Any], arch: int) -> Any:
    """Compile ``kernel`` with Triton's specializations for multiples of 16 and for None."""
    function, arguments, constants = recorded(kernel)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
    signature = dict.fromkeys(constants, "constexpr")
    hints = {}
    for index, (name, argument) in enumerate(zip(function.arg_names, arguments, strict=False)):
        if argument is None:
            signature[name], constants[name] = "constexpr", None
            continue
        if isinstance(argument, Tensor):
            signature[name] = POINTERS[argument.dtype]
            offset = argument.storage_offset() * argument.itemsize
        else:
            signature[name] = "i32"
            offset = argument
        if offset % 16 == 0:
            hints[(index,)] = [["tt.divisibility", 16]]
    ordered = {name: signature[name] for name in function.arg_names}
    source = ASTSource(function, ordered, constants, hints)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def tool(name: str, *arguments: str) -> str:
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def findings(kernel: dict[str, Any], arch: int) -> dict[str, Any]:
    """Registers, stack and local memory in bytes per thread, shared memory in bytes, instruction counts."""
    binary = compiled(kernel, arch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        code = tool("nvdisasm", "--print-code", file.name)
    sizes = {name: int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}  # type: ignore[index]
    instructions = Counter(re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", code))
    return {
        "registers": sizes["REG"],
        "stack": sizes["STACK"],
        "local": sizes["LOCAL"],
        "shared": binary.metadata.shared,
        "instructions": instructions,
    }


if __name__ == "__main__":
    json.dump([findings(request["kernel"], request["arch"]) for request in json.load(sys.stdin)], sys.stdout)
