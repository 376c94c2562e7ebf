"""How many times as fast one contender is as another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from precast.tools.bench.peers.contender import REFERENCE


def ratios(
    medians: Mapping[str, float], ours: Collection[str], inexact: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """For each contender: against HF fp32, and against the fastest that is none of ours.

    Args:
        medians: seconds of one setting, by contender; HF fp32 among them.
        ours: whom the best peer is sought without.
        inexact: peers whose answers are too far from HF's: a fast wrong answer is no answer.
    """
    others = {name: seconds for name, seconds in medians.items() if name not in (*ours, *inexact)}
    best = min(others, key=others.__getitem__, default=None)
    return {
        name: {
            "speedup_vs_hf_fp32": round(medians[REFERENCE] / seconds, 3),
            "best_peer": best,
            "speedup_vs_best_peer": None if best is None else round(others[best] / seconds, 3),
        }
        for name, seconds in medians.items()
    }
