"""Which kernels a decoder's step spends its time in, so that a missed aim can be explained."""

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
from precast.tools.gpucheck.stages.generation_speed import draw, options
from precast.tools.gpucheck.stages.profile import Listing, activities, print_profile, summarized

MODELS = ("T5-small", "T5-base", "BART-large-CNN")


def run(setting: Setting, part: str) -> Report:
    report = Report()
    # The profiler sees what a graph runs if it was there before the graph was captured.
    with profile(activities=activities(setting.device)):
        pass
    for name in MODELS:
        path = folder_of(setting, name) / "model.precast"
        if not path.is_dir():
            continue
        timed = timed_of(setting, name)
        with precast.Seq2Seq.load(path) as engine:
            for work in timed.works[:2]:
                found = profiled(engine, work, timed.layers, setting.device)
                what = f"{name}, {work.batch} sources, {work.num_beams} beams"
                report.expect(found["kernels_a_launch"] > 0, f"{what}: the profiler saw no kernel")
                report.content[what] = found
                keep(setting, report)
                print_profile(what, found)
    return report


def profiled(engine: Seq2Seq, work: Work, layers: int, device: str) -> dict[str, Any]:
    """Kernels of a step, those of encoding the sources spread over the steps."""
    sources = draw(engine, work)
    engine.generate(sources, **options(work))
    # The steps are taken by the engine's own thread.
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
    "which kernels take the time of a decoder's step",
    limit=25,
    run=run,
    after=("generation_models",),
    alone=True,
)
