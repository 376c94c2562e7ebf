"""Texts and token ids through all encoders in turns: time, and how far the answers are from HF fp32's."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.compiler.verify.parity import compare
from precast.tools.bench.bench_result import INPUTS, EncoderRow, Input, TextSet
from precast.tools.bench.peers.contender import REFERENCE
from precast.tools.bench.peers.padded import padding_waste
from precast.tools.bench.peers.work import EmbedIds, EmbedTexts, Tokenize, Work
from precast.tools.bench.ratios import ratios
from precast.tools.bench.results import summary
from precast.tools.bench.interleave import InterleavedProcesses

BATCHES = (1, 8, 32)
FAIR_COSINE = 0.999
"""Who computes in fp32 and is further from HF fp32 runs another model: its times would mislead."""
FAIR_ERROR = 0.01
"""The same for answers of too few numbers to have a cosine."""


@dataclass(frozen=True)
class Texts:
    """A set of texts and their token ids, cut to what everybody takes.

    Attributes:
        name: of the set.
        texts: all of it.
        ids: of each text.
        wanted: batches to measure.
    """

    name: str
    texts: list[str]
    ids: list[list[int]]
    wanted: tuple[int, ...] = BATCHES

    def batches(self) -> list[int]:
        """Those that the set fills; all of it where it fills none."""
        return [batch for batch in self.wanted if batch <= len(self.texts)] or [len(self.texts)]

    def work(self, source: Input, batch: int) -> EmbedIds | EmbedTexts:
        """The whole set, ``batch`` at a time."""
        starts = range(0, len(self.texts), batch)
        if source == "ids":
            return EmbedIds(tuple(self.ids[start : start + batch] for start in starts))
        return EmbedTexts(tuple(self.texts[start : start + batch] for start in starts))

    def info(self) -> TextSet:
        """What a result says of it."""
        lengths = [len(one) for one in self.ids]
        waste = {str(batch): round(padding_waste(lengths, batch), 3) for batch in self.batches()}
        return TextSet(name=self.name, texts=len(self.texts), tokens=sum(lengths), padding=waste)


def measure(processes: InterleavedProcesses[Work, Any], given: Texts, rounds: int, ours: Collection[str]) -> list[EncoderRow]:
    """A row for each batch, kind of input and contender.

    Args:
        processes: the contenders, HF fp32 among them.
        given: the texts.
        rounds: of which medians count.
        ours: names of our own.
    """
    rows: list[EncoderRow] = []
    for batch in given.batches():
        calls = -(-len(given.texts) // batch)
        for source in INPUTS:
            answers, seconds = processes.measured(given.work(source, batch), rounds)
            medians = {name: statistics.median(taken) for name, taken in seconds.items()}
            accuracy = {name: _accuracy(answers[name], answers[REFERENCE]) for name in seconds}
            inexact = [name for name, found in accuracy.items() if not _is_near(found)]
            beside = ratios(medians, ours, inexact)
            rows += [
                EncoderRow(
                    contender=name, batch=batch, texts=given.name, input=source,
                    **summary([one / calls for one in taken]),
                    texts_per_s=round(len(given.texts) / medians[name], 1),
                    **accuracy[name],
                    **beside[name],
                )
                for name, taken in seconds.items()
            ]  # fmt: skip
    return rows


def tokenization(processes: InterleavedProcesses[Work, Any], given: Texts, rounds: int) -> dict[str, float]:
    """Milliseconds of tokenizing the set at once, by contender."""
    seconds = processes.seconds(Tokenize(given.texts), rounds)
    return {name: round(statistics.median(taken) * 1e3, 3) for name, taken in seconds.items()}


def find_disagreeing(answers: Mapping[str, np.ndarray], exact: Collection[str]) -> dict[str, str]:
    """Reasons to leave contenders out: who is among ``exact`` and yet not close to HF fp32."""
    found = {}
    for name in exact:
        if answers[name].shape != answers[REFERENCE].shape:
            found[name] = f"it answers {answers[name].shape}, HF fp32 {answers[REFERENCE].shape}"
            continue
        accuracy = _accuracy(answers[name], answers[REFERENCE])
        cosine, error = accuracy["min_cosine"], accuracy["relative_error"]
        if cosine is None and not error <= FAIR_ERROR:
            found[name] = f"it runs another model: off by {error:.2g} from HF fp32, at most {FAIR_ERROR}"
        elif cosine is not None and not cosine >= FAIR_COSINE:
            found[name] = f"it runs another model: cosine {cosine:.4f} to HF fp32, at least {FAIR_COSINE}"
    return found


def _is_near(accuracy: dict[str, Any]) -> bool:
    """Whether answers are near enough for their speed to count; those without a cosine are taken to be."""
    cosine = accuracy["min_cosine"]
    return cosine is None or cosine >= FAIR_COSINE


def _accuracy(found: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    differs = compare(list(found), list(wanted))
    cosine = round(differs["min_cosine"], 6) if wanted.shape[-1] >= 8 else None
    return {"min_cosine": cosine, "relative_error": float(f"{differs['max_relative_error']:.3g}")}
