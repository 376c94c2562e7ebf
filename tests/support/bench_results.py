"""A hand-written result of ``precast bench``, small enough to check by eye."""

from __future__ import annotations

from precast.tools.bench.bench_result import (
    INPUTS,
    BenchResult,
    ContenderInfo,
    EncoderRow,
    GenerationRow,
    Input,
    SkippedInfo,
    TextSet,
)
from precast.tools.bench.fresh import PHASES
from precast.tools.bench.peers.contender import REFERENCE
from precast.tools.bench.ratios import ratios

OURS = "precast fp32"
PEER = "ONNX Runtime fp32"
MEDIANS = {OURS: 2.0, REFERENCE: 6.0, PEER: 3.0}
"""Milliseconds: a speedup of 3 over HF and of 1.5 over the best peer."""


def encoder_result(model: str = "a model", reason: str = "not installed") -> BenchResult:
    """Return a result with one set of texts, two batch sizes and both kinds of input."""
    rows = tuple(
        _encoder_row(name, batch, source) for batch in (1, 2) for source in INPUTS for name in MEDIANS
    )
    texts = (TextSet(name="short", texts=2, tokens=9, padding={"1": 1.0, "2": 1.25}),)
    return _result(model, reason, rows, texts)


def generation_result() -> BenchResult:
    """Return a result with one batch size and greedy search."""
    rows = tuple(
        GenerationRow(
            contender=name, batch=1, beams=1, median_ms=median, lower_quartile_ms=median,
            upper_quartile_ms=median, tokens_per_s=1000 / median, token_agreement=1.0,
            **ratios(MEDIANS, [OURS])[name],
        )
        for name, median in MEDIANS.items()
    )  # fmt: skip
    return _result("a model", "not installed", rows, ())


def _encoder_row(name: str, batch: int, source: Input) -> EncoderRow:
    median = MEDIANS[name]
    return EncoderRow(
        contender=name, batch=batch, texts="short", input=source, median_ms=median,
        lower_quartile_ms=median - 0.5, upper_quartile_ms=median + 0.5, texts_per_s=1000 * batch / median,
        min_cosine=0.9999, relative_error=1e-6, **ratios(MEDIANS, [OURS])[name],
    )  # fmt: skip


def _result(
    model: str,
    reason: str,
    rows: tuple[EncoderRow, ...] | tuple[GenerationRow, ...],
    texts: tuple[TextSet, ...],
) -> BenchResult:
    contenders = tuple(
        ContenderInfo(
            name=name, peer={OURS: "precast", PEER: "onnxruntime"}.get(name, "hf"), precision="fp32",
            cold_start_s=dict.fromkeys(PHASES, 0.5), peak_memory_bytes=200_000_000,
            tokenization_ms={given.name: 0.5 for given in texts}, first_token_ms=None,
        )
        for name in MEDIANS
    )  # fmt: skip
    return BenchResult(
        benchmark="bench",
        machine={"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"]},
        versions={"torch": "2", "transformers": "5"},
        model=model,
        task="embed" if texts else "generate",
        rounds=3,
        threads=2,
        contenders=contenders,
        skipped=(SkippedInfo(name="openvino", reason=reason),),
        texts=texts,
        rows=rows,
        arrivals=(),
    )
