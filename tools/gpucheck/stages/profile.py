"""The kernels in which the device spends its time, to explain missed aims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from precast.artifacts.manifest import EncodeManifest
from precast.artifacts.reader import open_artifact
from precast.runtime.backends.graph_loader import open_replay
from precast.runtime.encoder.packing import fill
from precast.runtime.io.tokens import Tokens
from precast.runtime.options import LoadOptions
from precast.runtime.replay import Replay
from precast.tools.gpucheck.engines import artifact, random_ids
from precast.tools.gpucheck.floors import BERT_BASE
from precast.tools.gpucheck.rows import rounded
from precast.tools.gpucheck.stage import Report, Setting, Stage, keep
from precast.tools.gpucheck.stages.shapes import SHAPES, TINY_SHAPES, Shape


@dataclass(frozen=True)
class Listing:
    """The divisors of the figures, and the number of kernels to list."""

    launches: int
    layers: int
    kernels: int


@dataclass(frozen=True)
class Sizes:
    shapes: tuple[Shape, ...]
    listing: Listing


FULL = Sizes(SHAPES, Listing(launches=5, layers=BERT_BASE.layers, kernels=14))
TINY = Sizes(TINY_SHAPES[:2], Listing(launches=2, layers=2, kernels=5))


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    path = artifact(setting, "classify-bf16")
    manifest = open_artifact(path)
    assert isinstance(manifest, EncodeManifest)
    options = LoadOptions(batch_tokens=manifest.limits.max_tokens, cuda_graph_max_tokens=16)
    # The profiler sees the kernels of a graph only if it was active before the graph was captured.
    with profile(activities=activities(setting.device)):
        pass
    replay = open_replay(path, manifest, options)
    try:
        replay.prepare()
        for shape in sizes.shapes:
            ids = random_ids(np.random.default_rng(0), shape.lengths, manifest.model.vocab_size)
            found = profiled(replay, [Tokens(one, None) for one in ids], sizes.listing, setting.device)
            report.expect(found["kernels_a_launch"] > 0, f"{shape.name}: the profiler saw no kernel")
            report.content[shape.name] = found
            keep(setting, report)
            print_profile(shape.name, found)
    finally:
        replay.close()
    return report


def activities(device: str) -> list[ProfilerActivity]:
    """Return the activities to profile on a device."""
    return [ProfilerActivity.CPU] if device == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]


def profiled(replay: Replay, batch: list[Tokens], listing: Listing, device: str) -> dict[str, Any]:
    """Profile ``listing.launches`` launches and return their kernels."""

    def launch() -> None:
        replay.launch(fill(replay, batch)).result()

    for _ in range(3):
        launch()
    with profile(activities=activities(device)) as seen:
        for _ in range(listing.launches):
            launch()
        if device != "cpu":
            torch.cuda.synchronize()
    return summarized(seen.key_averages(), listing, device)


def summarized(events: Any, listing: Listing, device: str) -> dict[str, Any]:
    """Return the kernels by their time, without copies and memory sets."""
    kind = DeviceType.CPU if device == "cpu" else DeviceType.CUDA
    taken = []
    for event in events:
        microseconds = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        if event.device_type == kind and microseconds > 0 and not event.key.startswith(("Memcpy", "Memset")):
            taken.append((microseconds / listing.launches, event.count / listing.launches, event.key))
    taken.sort(reverse=True)
    whole = sum(microseconds for microseconds, *_ in taken)
    count = sum(count for _, count, _ in taken)
    return {
        "kernels_a_launch": rounded(count),
        "kernels_a_layer": rounded(count / listing.layers),
        "kernel_us_a_launch": rounded(whole),
        "top": [
            {
                "kernel": name[:120],
                "us": rounded(time),
                "count": rounded(times),
                "share": rounded(time / whole),
            }
            for time, times, name in taken[: listing.kernels]
        ],
    }


def print_profile(shape: str, found: dict[str, Any]) -> None:
    print(f"{shape}: {found['kernel_us_a_launch']} us in {found['kernels_a_launch']} kernels")
    for one in found["top"]:
        print(f"  {one['share']:6.1%} {one['us']:9.1f} us {one['count']:5.0f} x {one['kernel'][:80]}")


STAGE = Stage(
    "profile",
    "the kernels in which the device spends its time at each shape",
    limit=25,
    run=run,
    needs=("compile/classify-bf16",),
    alone=True,
)
