"""HF's BERT-base through torch.compile at each shape: stage ``latency`` finds it in Inductor's cache."""

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
    report.expect(bool(np.isfinite(model.logits(ids)).all()), "a logit is no number")
    report.content = {"seconds": round(time.perf_counter() - started, 1)}
    print(report.content)
    return report


STAGE = Stage(
    "peers",
    "torch.compile of HF's BERT-base, made ready to be timed",
    limit=240,
    run=run,
    parts=tuple(shape.name for shape in SHAPES),
    after=("machine",),
)
