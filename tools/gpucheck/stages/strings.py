"""Ten texts to logits, including tokenization, compared with HF eager in the same process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import precast
from precast.tools.bench.results import summary
from precast.tools.gpucheck import hugging_face as hf
from precast.tools.gpucheck.clock import host_seconds, median_ms
from precast.tools.gpucheck.engines import artifact, checkpoint
from precast.tools.gpucheck.floors import BERT_BASE, Ceilings, encoder_floor_s
from precast.tools.gpucheck.rows import Published, Row
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.gpucheck.stages.latency import MAX_LOGIT_DIFFERENCE
from precast.tools.models import random_texts

AIM_MS = 1.0
AIM_TIMES_HF = 10.0
PUBLISHED = Published(5.17, "TensorRT-LLM PR 12801")


@dataclass(frozen=True)
class Sizes:
    texts: int
    words: int
    rounds: int


FULL = Sizes(texts=10, words=20, rounds=100)
TINY = Sizes(texts=3, words=3, rounds=3)


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    model = hf.Classifier(checkpoint(setting), setting.device, "bf16", "eager")
    with precast.load(artifact(setting, "classify-bf16")) as engine:
        texts = random_texts(sizes.texts, sizes.words, engine.manifest.model.vocab_size)
        outputs = engine.encode(texts)
        lengths = [len(output.prompt_token_ids) for output in outputs]
        expected = model.logits_of(texts)
        apart = float(np.abs(np.stack([o.logits for o in outputs]) - expected).max() / np.abs(expected).max())
        report.expect(apart <= MAX_LOGIT_DIFFERENCE, f"logits differ from HF's by {apart:.3f}")
        ours, theirs = [], []
        for _ in range(3):
            host_seconds([lambda: engine.encode(texts), lambda: model.logits_of(texts)], 6)
            ours += host_seconds([lambda: engine.encode(texts)], sizes.rounds)
            theirs += host_seconds([lambda: model.logits_of(texts)], sizes.rounds // 3)
    report.content["rows"] = rows(setting, lengths, ours, theirs)
    print(report.content["rows"])
    return report


def rows(
    setting: Setting, lengths: list[int], ours: list[float], theirs: list[float]
) -> list[dict[str, object]]:
    """Return one row for the time and one for the speedup over HF."""
    ceilings = Ceilings.of(setting.earlier.get("machine"))
    floor = encoder_floor_s(ceilings, "bf16", BERT_BASE, lengths)
    name = f"BERT-base bf16, {len(lengths)} texts of {sum(lengths)} tokens, strings in, logits out"
    taken, peer = median_ms(ours), median_ms(theirs)
    times = Row(
        name,
        taken,
        "ms",
        aim=AIM_MS,
        floor=None if floor is None else floor * 1e3,
        published=PUBLISHED,
        peers={hf.EAGER: peer},
        details={"ours": summary(ours), hf.EAGER: summary(theirs)},
    )
    ratio = Row(f"{name}: speedup over {hf.EAGER}", peer / taken, "x", aim=AIM_TIMES_HF)
    return [times.plain(), ratio.plain()]


STAGE = Stage(
    "strings",
    "the latency from ten texts to logits, including tokenization",
    limit=22,
    run=run,
    needs=("compile/classify-bf16",),
    alone=True,
)
