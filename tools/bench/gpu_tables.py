"""Markdown of the GPU check and of the cross-compilation check."""

from __future__ import annotations

from typing import Any

from precast.tools.bench.bench_tables import markdown

UNMEASURED_GPU = "Not yet measured on a GPU."


def gpu_check(data: dict[str, Any]) -> str:
    """Return one row for each speed that the GPU check measured."""
    if data["rehearsal"] or not data["rows"]:
        return UNMEASURED_GPU
    peers = list(dict.fromkeys(name for row in data["rows"] for name in row["peers"]))
    rows = []
    for row in data["rows"]:
        floor = "" if row["times_floor"] is None else f"{row['times_floor']:.2f}×"
        peer_cells = [_figure(row["peers"].get(name), row["unit"]) for name in peers]
        cells = [row["name"], _figure(row["measured"], row["unit"]), _aim(row), floor, *peer_cells]
        rows.append([*cells, _published(row)])
    heads = ["", "measured", "aim", "relative to the floor", *peers, "published"]
    return markdown(heads, rows, _caption(data))


def cross_check(data: dict[str, Any]) -> str:
    """Return one sentence: how many graphs were lowered for a GPU that the machine does not have."""
    machine, rows = data["machine"], data["rows"]
    graphs = sum(row["libraries"] for row in rows)
    return (
        f"{graphs} graphs of {len(rows)} models lowered for {data['architecture']} on {machine['cpu']}, "
        f"torch {data['versions']['torch']}, without a GPU."
    )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "tokens/s":
        return f"{value / 1e6:.2f} M tokens/s"
    return f"{value:.2f}×" if unit == "x" else f"{value:.3g} {unit}"


def _aim(row: dict[str, Any]) -> str:
    if row["aim"] is None:
        return ""
    return f"{_figure(row['aim'], row['unit'])}, {'met' if row['met'] else 'missed'}"


def _published(row: dict[str, Any]) -> str:
    published = row["published"]
    return "" if published is None else f"{_figure(published['value'], row['unit'])} ({published['who']})"


def _caption(data: dict[str, Any]) -> str:
    machine, versions, stages = data["machine"], data["versions"], data["stages"]
    failed = [name for name, stage in stages.items() if stage["status"] == "failed"]
    ceilings = stages["machine"].get("ceilings") if "machine" in stages else None
    rates = (
        f" The floor follows from {ceilings['bytes_per_s'] / 1e12:.2f} TB/s and "
        f"{ceilings['flops_per_s']['bf16'] / 1e12:.0f} TFLOP/s in bf16, both measured in the same run."
        if ceilings
        else ""
    )
    passed = f"{len(stages) - len(failed)} of {len(stages)} stages passed or were skipped for a stated reason"
    return (
        f"Random weights, medians, on {machine.get('gpu')}, driver {machine.get('driver')}, "
        f"CUDA {versions.get('cuda')}, torch {versions['torch']}; {passed}"
        f"{': not ' + ', '.join(failed) if failed else ''}.{rates}"
    )
