"""Every kernel with its production tiles compiles for every architecture without register spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
ARCHES = (80, 90, 100)
PROCESSES = 2

MATRIX_UNITS = {80: "HMMA.", 90: "HGMMA.", 100: "UTCHMMA"}
"""The tensor core instructions for 16-bit numbers."""

SHARED_MEMORY = 99 * 1024
"""Bytes available to a program on sm_86 and sm_89, the smallest size from sm_80 on."""


@dataclass(frozen=True)
class Case:
    """A kernel and an architecture."""

    name: str
    arguments: tuple[tuple[str, Any], ...]
    arch: int
    launch: int = 0
    """Index among the kernels that one call launches."""

    @property
    def half(self) -> bool:
        return dict(self.arguments)["dtype"] != "fp32"

    def __str__(self) -> str:
        arguments = (f"{name}={value}" for name, value in self.arguments)
        return "-".join([self.name, *arguments, f"sm_{self.arch}", *["second"] * self.launch])

    def request(self) -> dict[str, Any]:
        kernel = {"name": self.name, "arguments": dict(self.arguments), "launch": self.launch}
        return {"kernel": kernel, "arch": self.arch}


def cases() -> Iterator[Case]:
    for arch in ARCHES:
        for biased in (False, True):
            for dtype, sizes in {
                "bf16": (32, 64, 128, 256),
                "fp16": (64,),
                "fp32": (32, 64, 128, 256),
            }.items():
                for head_dim in sizes:
                    arguments = (("dtype", dtype), ("head_dim", head_dim), ("biased", biased))
                    yield Case("attention", arguments, arch)
        yield from decode_cases(arch)
        yield from linear_cases(arch)
        for maximum, weighted in ((False, False), (False, True), (True, False)):
            arguments = (("dtype", "bf16"), ("maximum", maximum), ("weighted", weighted))
            yield Case("pool", arguments, arch)


def decode_cases(arch: int) -> Iterator[Case]:
    """Attention of a decode step without splits, and with splits and the kernel that combines them."""
    for dtype, head_dim in (("bf16", 64), ("bf16", 128), ("fp16", 64), ("fp32", 64), ("fp32", 128)):
        of_head: tuple[tuple[str, Any], ...] = (("dtype", dtype), ("head_dim", head_dim))
        for splits in (1, 8):
            for biased in (False, True):
                yield Case("decode_self", (*of_head, ("biased", biased), ("splits", splits)), arch)
            yield Case("decode_cross", (*of_head, ("splits", splits)), arch)
        yield Case("decode_cross", (*of_head, ("splits", 8)), arch, launch=1)


def linear_cases(arch: int) -> Iterator[Case]:
    """Small-batch linear layers, narrow and wide, and the projection of a source."""
    for dtype in ("bf16", "fp16", "fp32"):
        for columns in (768, 8192):
            yield Case(
                "small_batch_linear",
                (("dtype", dtype), ("columns", columns), ("biased", columns == 768)),
                arch,
            )
        yield Case("project", (("dtype", dtype), ("biased", dtype == "bf16")), arch)


CASES = list(cases())


def compile_all(wanted: list[Case], cache: Path) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("offline_compile.py"))],
        input=json.dumps([case.request() for case in wanted]),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, dict[str, Any]]:
    cache = tmp_path_factory.mktemp("triton-cache")
    shares = [CASES[start::PROCESSES] for start in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(compile_all, shares, [cache] * PROCESSES))
    return {
        case: found
        for share, result in zip(shares, results, strict=True)
        for case, found in zip(share, result, strict=True)
    }


def count(found: dict[str, Any], *beginnings: str) -> int:
    return sum(times for name, times in found["instructions"].items() if name.startswith(beginnings))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_register_spills(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    found = findings[case]
    assert found["registers"] <= 255
    assert found["stack"] == found["local"] == count(found, "LDL", "STL") == 0
    assert found["shared"] <= SHARED_MEMORY


@pytest.mark.parametrize("case", [case for case in CASES if case.name == "attention"], ids=str)
def test_products_run_on_the_tensor_cores(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    """Only for 16-bit dtypes: fp32 products must be exact, which tensor cores are not."""
    assert bool(count(findings[case], MATRIX_UNITS[case.arch])) == case.half


CROSS = [case for case in CASES if case.name == "decode_cross" and not case.launch]


@pytest.mark.parametrize("case", CROSS, ids=str)
def test_beams_are_multiplied_on_the_tensor_cores(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    """With the instruction for 16 rows on every architecture."""
    assert bool(count(findings[case], "HMMA.16816")) == case.half


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("small_batch_linear", "project")], ids=str
)
def test_linear_layers_run_on_the_tensor_cores(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    unit = "HMMA.16816" if case.name == "small_batch_linear" else MATRIX_UNITS[case.arch]
    assert bool(count(findings[case], unit)) == case.half
    assert count(findings[case], "LDGSTS"), "weights are prefetched"


@pytest.mark.parametrize("case", [case for case in CASES if case.name == "attention"], ids=str)
def test_keys_and_values_are_prefetched(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    """With asynchronous copies, of 16 bytes each for 16-bit dtypes, whose tiles are large enough."""
    found = findings[case]
    assert count(found, "LDGSTS")
    if case.half:
        assert count(found, "LDGSTS.E.BYPASS.128")
        assert not count(found, "LDG.E.U16", "LDGSTS.E.BYPASS.U16")


@pytest.mark.parametrize("case", [case for case in CASES if case.name == "pool"], ids=str)
def test_rows_are_loaded_16_bytes_at_a_time(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    found = findings[case]
    assert count(found, "LDG.E.128")
    assert not count(found, "LDG.E.U16")


@pytest.mark.parametrize("case", [case for case in CASES if ("maximum", True) in case.arguments], ids=str)
def test_a_maximum_propagates_nan(case: Case, findings: dict[Case, dict[str, Any]]) -> None:
    """NumPy in the interpreter always does, so the machine code is checked."""
    assert count(findings[case], "FMNMX") == count(findings[case], "FMNMX.NAN") > 0


def test_every_dtype_of_the_kernels_is_compiled() -> None:
    from precast.compiler.kernels.triton.packed_attention import DTYPES

    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    assert {names[dtype] for dtype in DTYPES} == {
        dict(case.arguments)["dtype"] for case in CASES if case.name == "attention"
    }
