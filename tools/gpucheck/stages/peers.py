"""BERT-base of HF compiled by torch.compile at each shape into Inductor's cache, for stage ``latency``."""

from __future__ import annotations

import time

import numpy as np

from precast.tools.gpucheck.engines import checkpoint
from precast.tools.gpucheck.hugging_face import Classifier
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.gpucheck.stages import lower
from precast.tools.gpucheck.stages.shapes import SHAPES, TINY_SHAPES


def run(setting: Setting, part: str) -> Report:
    at = [shape.name for shape in SHAPES].index(part)
    shape = (TINY_SHAPES if setting.tiny else SHAPES)[at]
    lower.write_model(setting)
    started = time.perf_counter()
    model = Classifier(checkpoint(setting), setting.device, "bf16", "sdpa", compiled=True)
    ids = shape.ids(np.random.default_rng(0), lower.TINY_BERT["vocab_size"])
    report = Report()
    report.expect(bool(np.isfinite(model.logits(ids)).all()), "a logit is not finite")
    report.content = {"seconds": round(time.perf_counter() - started, 1)}
    print(report.content)
    return report


STAGE = Stage(
    "peers",
    "torch.compile compiles BERT-base of HF, which is timed later",
    limit=240,
    run=run,
    parts=tuple(shape.name for shape in SHAPES),
    after=("machine",),
)
