"""Speedups of contenders over HF fp32 and over the best peer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from precast.tools.bench.peers.contender import REFERENCE


def ratios(
    medians: Mapping[str, float], ours: Collection[str], inexact: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return the speedups of each contender over HF fp32 and over the fastest accurate peer.

    Args:
        medians: median seconds of one setting by contender, including HF fp32.
        ours: names of the precast artifacts.
        inexact: peers whose outputs are too far from HF fp32 to be the best peer.
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
