"""Texts and token ids through all encoders in interleaved rounds: times, and accuracy relative to HF fp32."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.compiler.verify.parity import compare
from precast.tools.bench.bench_result import INPUTS, EncoderRow, Input, TextSet
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.peers.contender import REFERENCE
from precast.tools.bench.peers.padded import padding_waste
from precast.tools.bench.peers.work import EmbedIds, EmbedTexts, Tokenize, Work
from precast.tools.bench.ratios import ratios
from precast.tools.bench.results import summary

BATCHES = (1, 8, 32)
FAIR_COSINE = 0.999
"""Minimum cosine of an fp32 contender to HF fp32: one that differs more runs another model."""
FAIR_ERROR = 0.01
"""Maximum relative error of an fp32 contender whose outputs are too small for a cosine."""


@dataclass(frozen=True)
class Texts:
    """A set of texts with their token ids, truncated to the shortest limit of all contenders.

    Attributes:
        name: name of the set.
        texts: the texts.
        ids: token ids of each text.
        wanted: batch sizes to measure.
    """

    name: str
    texts: list[str]
    ids: list[list[int]]
    wanted: tuple[int, ...] = BATCHES

    def batches(self) -> list[int]:
        """Return the batch sizes that the set can fill, or its own size if it fills none."""
        return [batch for batch in self.wanted if batch <= len(self.texts)] or [len(self.texts)]

    def work(self, source: Input, batch: int) -> EmbedIds | EmbedTexts:
        """Return the work of processing the whole set, ``batch`` texts at a time."""
        starts = range(0, len(self.texts), batch)
        if source == "ids":
            return EmbedIds(tuple(self.ids[start : start + batch] for start in starts))
        return EmbedTexts(tuple(self.texts[start : start + batch] for start in starts))

    def info(self) -> TextSet:
        """Return the description of the set for the result file."""
        lengths = [len(one) for one in self.ids]
        waste = {str(batch): round(padding_waste(lengths, batch), 3) for batch in self.batches()}
        return TextSet(name=self.name, texts=len(self.texts), tokens=sum(lengths), padding=waste)


def measure(
    processes: InterleavedProcesses[Work, Any], given: Texts, rounds: int, ours: Collection[str]
) -> list[EncoderRow]:
    """Return one row for each batch size, kind of input and contender.

    Args:
        processes: the contenders, including HF fp32.
        given: the texts.
        rounds: number of measured rounds.
        ours: names of the precast artifacts.
    """
    rows: list[EncoderRow] = []
    for batch in given.batches():
        calls = -(-len(given.texts) // batch)
        for source in INPUTS:
            outputs, seconds = processes.measured(given.work(source, batch), rounds)
            medians = {name: statistics.median(taken) for name, taken in seconds.items()}
            accuracy = {name: _accuracy(outputs[name], outputs[REFERENCE]) for name in seconds}
            inexact = [name for name, errors in accuracy.items() if not _is_accurate(errors)]
            speedups = ratios(medians, ours, inexact)
            rows += [
                EncoderRow(
                    contender=name, batch=batch, texts=given.name, input=source,
                    **summary([one / calls for one in taken]),
                    texts_per_s=round(len(given.texts) / medians[name], 1),
                    **accuracy[name],
                    **speedups[name],
                )
                for name, taken in seconds.items()
            ]  # fmt: skip
    return rows


def tokenization(processes: InterleavedProcesses[Work, Any], given: Texts, rounds: int) -> dict[str, float]:
    """Return the milliseconds of tokenizing the whole set in one call, by contender."""
    seconds = processes.seconds(Tokenize(given.texts), rounds)
    return {name: round(statistics.median(taken) * 1e3, 3) for name, taken in seconds.items()}


def find_disagreeing(outputs: Mapping[str, np.ndarray], exact: Collection[str]) -> dict[str, str]:
    """Return the reason to skip each contender of ``exact`` whose outputs are too far from HF fp32."""
    expected = outputs[REFERENCE]
    reasons = {}
    for name in exact:
        if outputs[name].shape != expected.shape:
            reasons[name] = f"its outputs have shape {outputs[name].shape}, those of HF fp32 {expected.shape}"
            continue
        accuracy = _accuracy(outputs[name], expected)
        cosine, error = accuracy["min_cosine"], accuracy["relative_error"]
        if cosine is None and not error <= FAIR_ERROR:
            reasons[name] = (
                f"it runs another model: expected a relative error to HF fp32 of at most {FAIR_ERROR}, "
                f"found {error:.2g}"
            )
        elif cosine is not None and not cosine >= FAIR_COSINE:
            reasons[name] = (
                f"it runs another model: expected a cosine to HF fp32 of at least {FAIR_COSINE}, "
                f"found {cosine:.4f}"
            )
    return reasons


def _is_accurate(accuracy: dict[str, Any]) -> bool:
    """Return whether a contender's speed counts; outputs without a cosine are taken to be accurate."""
    cosine = accuracy["min_cosine"]
    return cosine is None or cosine >= FAIR_COSINE


def _accuracy(output: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    errors = compare(list(output), list(expected))
    cosine = round(errors["min_cosine"], 6) if expected.shape[-1] >= 8 else None
    return {"min_cosine": cosine, "relative_error": float(f"{errors['max_relative_error']:.3g}")}
