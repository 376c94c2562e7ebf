"""The machine and its measured peak rates, from which floors are computed."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
from dataclasses import dataclass
from typing import Any

import torch

from precast.tools.gpucheck.clock import Clock, clock_of
from precast.tools.gpucheck.rows import rounded
from precast.tools.gpucheck.stage import Report, Setting, Stage


@dataclass(frozen=True)
class Sizes:
    copied: int
    """Bytes of one copied buffer."""
    side: int
    """Side of the square matrices."""
    rounds: int


FULL = Sizes(copied=2 << 30, side=8192, rounds=20)
TINY = Sizes(copied=1 << 20, side=64, rounds=3)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def run(setting: Setting, part: str) -> Report:
    sizes, clock = (TINY if setting.tiny else FULL), clock_of(setting.device)
    report = Report()
    copy = copy_rate(setting.device, clock, sizes)
    flops = {name: matmul_rate(setting.device, clock, sizes, dtype) for name, dtype in DTYPES.items()}
    launch = launch_seconds(setting.device, clock, sizes)
    for name, rate in {"copy": copy, **flops}.items():
        report.expect(rate > 0, f"the {name} rate is {rate}")
    report.content = {
        "machine": describe(setting.device),
        "versions": {"cuda": torch.version.cuda},
        "ceilings": {
            "bytes_per_s": rounded(copy),
            "flops_per_s": {name: rounded(rate) for name, rate in flops.items()},
            "empty_replay_us": rounded(launch * 1e6),
        },
    }
    print(report.content)
    return report


def copy_rate(device: str, clock: Clock, sizes: Sizes) -> float:
    """Return the bytes per second of a device-to-device copy, counting reads and writes."""
    source = torch.randint(0, 127, (sizes.copied,), dtype=torch.int8, device=device)
    targets = [torch.empty_like(source) for _ in range(2)]
    works = [lambda target=target: target.copy_(source) for target in targets]
    return 2 * sizes.copied / statistics.median(clock.device_seconds(works, sizes.rounds))


def matmul_rate(device: str, clock: Clock, sizes: Sizes, dtype: torch.dtype) -> float:
    """Return the FLOP/s of ``[n, n] @ [n, n]`` on random numbers; zeros would run faster."""
    shape = (sizes.side, sizes.side)
    pairs = [
        (torch.randn(shape, device=device, dtype=dtype), torch.randn(shape, device=device, dtype=dtype))
        for _ in range(2)
    ]
    works = [lambda a=a, b=b: a @ b for a, b in pairs]
    return 2 * sizes.side**3 / statistics.median(clock.device_seconds(works, sizes.rounds))


def launch_seconds(device: str, clock: Clock, sizes: Sizes) -> float:
    """Return the seconds of one replay of a graph with one tiny kernel, back to back."""
    value = torch.zeros(8, device=device)
    replay = clock.graph(lambda: value.add_(1))
    many = 200

    def replays() -> None:
        for _ in range(many):
            replay()

    return statistics.median(clock.device_seconds([replays], sizes.rounds)) / many


def describe(device: str) -> dict[str, Any]:
    """Return the GPU and its driver."""
    if device == "cpu":
        return {"gpu": None, "system": platform.platform()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute_capability": list(torch.cuda.get_device_capability(0)),
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "system": platform.platform(),
    }


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return found.stdout.strip().splitlines()[0] if found.returncode == 0 and found.stdout.strip() else None


STAGE = Stage("machine", "the machine and its measured peak rates", limit=40, run=run, alone=True)
