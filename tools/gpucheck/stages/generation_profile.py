"""The kernels in which a decoder step spends its time, to explain missed aims."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import profile

import precast
from precast.runtime.generation.engine import Seq2Seq
from precast.tools.gpucheck.generation_shapes import Work
from precast.tools.gpucheck.stage import Report, Setting, Stage, keep
from precast.tools.gpucheck.stages.generation_models import folder_of, timed_of
from precast.tools.gpucheck.stages.generation_speed import options, random_sources
from precast.tools.gpucheck.stages.profile import Listing, activities, print_profile, summarized

MODELS = ("T5-small", "T5-base", "BART-large-CNN")


def run(setting: Setting, part: str) -> Report:
    report = Report()
    # The profiler sees the kernels of a graph only if it was active before the graph was captured.
    with profile(activities=activities(setting.device)):
        pass
    for name in MODELS:
        path = folder_of(setting, name) / "model.precast"
        if not path.is_dir():
            continue
        timed = timed_of(setting, name)
        with precast.Seq2Seq.load(path) as engine:
            for work in timed.works[:2]:
                figures = profiled(engine, work, timed.layers, setting.device)
                workload = f"{name}, {work.batch} sources, {work.num_beams} beams"
                report.expect(figures["kernels_a_launch"] > 0, f"{workload}: the profiler saw no kernel")
                report.content[workload] = figures
                keep(setting, report)
                print_profile(workload, figures)
    return report


def profiled(engine: Seq2Seq, work: Work, layers: int, device: str) -> dict[str, Any]:
    """Profile a call and return the kernels per step, including a share of the source encoder."""
    sources = random_sources(engine, work)
    engine.generate(sources, **options(work))
    # The engine's own thread runs the steps.
    everywhere = _ExperimentalConfig(profile_all_threads=True)
    before = engine.stats().steps
    with profile(activities=activities(device), experimental_config=everywhere) as seen:
        engine.generate(sources, **options(work))
        if device != "cpu":
            torch.cuda.synchronize()
    steps = engine.stats().steps - before
    return summarized(seen.key_averages(), Listing(launches=steps, layers=layers, kernels=16), device)


STAGE = Stage(
    "generation_profile",
    "the kernels in which a decoder step spends its time",
    limit=25,
    run=run,
    after=("generation_models",),
    alone=True,
)
