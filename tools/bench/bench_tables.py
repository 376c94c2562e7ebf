"""Markdown tables of the encoder benchmark, the aims, the optimization steps, the floor and compile times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HEADS = (
    "texts", "batch", "", "text input, vs. best peer", "token ids, vs. best peer",
    "text input, vs. HF fp32", "lowest cosine to HF fp32",
)  # fmt: skip


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a Markdown table, followed by its caption as a paragraph."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", caption] if caption else lines)


def encoder_bench(data: dict[str, Any]) -> str:
    """Return one row for each set of texts, batch size and precast artifact, naming the best peer of each."""
    ours = [contender["name"] for contender in data["contenders"] if contender["peer"] == "precast"]
    token_rows = {_key(row): row for row in data["rows"] if row["input"] == "ids"}
    rows = []
    for row in data["rows"]:
        if row["input"] == "texts" and row["contender"] in ours:
            cells = [row["texts"], str(row["batch"]), row["contender"]]
            cells += [_vs_best_peer(row), _vs_best_peer(token_rows[_key(row)])]
            rows.append([*cells, f"{row['speedup_vs_hf_fp32']:.2f}×", _cosine(row)])
    return markdown(_HEADS, rows, _encoder_caption(data))


def cold_start(data: dict[str, Any]) -> str:
    """Return one row for each contender: the phases of a new process up to its first result."""
    phases = list(next(iter(data["contenders"]))["cold_start_s"])
    after = {one["name"]: after_torch(one["cold_start_s"]) for one in data["contenders"]}
    baselines = [seconds for name, seconds in after.items() if name.startswith("sentence-transformers")]
    rows = []
    for contender in data["contenders"]:
        cells = [f"{contender['cold_start_s'][phase]:.2f} s" for phase in phases]
        speedup = f"{min(baselines) / after[contender['name']]:.1f}×" if baselines else ""
        rows.append([contender["name"], *cells, speedup])
    heads = ["", *phases, "after importing torch, vs. sentence-transformers"]
    return markdown(heads, rows, _encoder_caption(data))


def after_torch(seconds: Mapping[str, float]) -> float:
    """Return the seconds of a cold start without starting the interpreter and importing torch."""
    return sum(seconds[phase] for phase in ("import", "load", "first result"))


def steps(data: dict[str, Any]) -> str:
    """Return one row for each optimization step in ``steps.json``, one column for each workload."""
    columns = list(dict.fromkeys((row["model"], row["work"]) for row in data["rows"]))
    speedups = {(row["step"], row["model"], row["work"]): row["speedup"] for row in data["rows"]}
    rows = [
        [step, *(f"{speedups[step, model, work]:.2f}×" for model, work in columns)]
        for step in dict.fromkeys(row["step"] for row in data["rows"])
    ]
    caption = (
        f"Speedup over the first row; {rounds_of(data)}, on {machine_of(data)}, "
        f"torch {data['versions']['torch']}."
    )
    return markdown(["", *(f"{model}, {work}" for model, work in columns)], rows, caption)


def floor(data: dict[str, Any]) -> str:
    """Return one row for each precision in ``floor.json``."""
    rows = []
    for row in data["rows"]:
        shares = (row["reading"]["median_ms"] / row[part]["median_ms"] for part in ("step", "token"))
        name = f"{row['model']}, {row['precision']}"
        rows.append([name, f"{row['bytes'] / 1e6:.1f} MB", *(f"{share:.0%}" for share in shares)])
    heads = ["", "weights per step", "reading weights, share of a `decode` step", "share of a whole token"]
    caption = (
        f"One source, greedy search; {rounds_of(data)}, on {machine_of(data)}, "
        f"torch {data['versions']['torch']}."
    )
    return markdown(heads, rows, caption)


def aims(data: dict[str, Any]) -> str:
    """Return one row for each aim in ``aims.json``, one column for each artifact; medians over all runs.

    An artifact can meet an aim only if its outputs were accurate enough in every run.
    """
    runs = [run["aims"] for run in data["rows"]]
    ours = list(runs[-1][0]["speedup"])
    rows = []
    for aim_runs in zip(*runs, strict=True):
        speedups = {name: [run["speedup"][name] for run in aim_runs] for name in ours}
        eligible = set(ours).intersection(*(run["eligible"] for run in aim_runs))
        best = max((statistics.median(speedups[name]) for name in eligible), default=0.0)
        last = aim_runs[-1]
        cells = [last["name"], last["peer"], f"{last['aim']:g}×", *map(_spread, speedups.values())]
        rows.append([*cells, "met" if best >= last["aim"] else "missed"])
    occasions = ", ".join(f"{run['recorded']} ({run['rounds']} rounds)" for run in data["rows"])
    caption = (
        f"Speedups: median of {len(runs)} runs of the whole comparison, with minimum and maximum in "
        f"parentheses. Interleaved rounds, {data['threads']} threads each, on {machine_of(data)}, "
        f"torch {data['versions']['torch']}; runs of {occasions}. "
        f"The best peer is the fastest with a cosine of at least 0.999 to HF fp32. {_token_agreement(runs)}"
    )
    return markdown(["", "compared with", "aim", *ours, ""], rows, caption)


def _token_agreement(runs: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Return the lowest token agreement of each contender in any run."""
    lowest: dict[str, float] = {}
    for aim in (aim for run in runs for aim in run if "token_agreement" in aim):
        for name, share in aim["token_agreement"].items():
            lowest[name] = min(share, lowest.get(name, 1.0))
    shares = ", ".join(f"{name} {share:.1%}" for name, share in lowest.items())
    return f"Lowest token agreement with HF fp32: {shares}."


def profile(data: dict[str, Any], model: str = "MiniLM-L6") -> str:
    """Return one row for each group of functions in ``profile.json``, one column for each workload."""
    workloads = {row["work"]: row["shares"] for row in data["rows"] if row["model"] == model}
    rows = [
        [group, *(f"{shares[group]:.1%}" for shares in workloads.values())]
        for group in next(iter(workloads.values()))
    ]
    caption = f"Shares of CPU time, {data['threads']} threads, on {machine_of(data)}."
    return markdown(["", *workloads], rows, caption)


def compile_times(data: dict[str, Any]) -> str:
    """Return one row for each model in ``compile.json``: its first compilation and its repetition."""
    seconds = {(row["model"], row["compilation"]): row["seconds"] for row in data["rows"]}
    rows = [
        [model, *(f"{seconds[model, kind]:.1f} s" for kind in ("first", "again"))]
        for model in dict.fromkeys(row["model"] for row in data["rows"])
    ]
    judged = "; ".join(
        f"{one['name']}: {one['value']:g} (aim {one['aim']:g}, {'met' if one['met'] else 'missed'})"
        for one in data["bars"]
    )
    rates = "".join(
        f", {data['machine'][name]:.3g} {unit}"
        for name, unit in (("memory_gb_per_s", "GB/s"), ("bf16_tflop_per_s", "TFLOP/s in bf16"))
        if name in data["machine"]
    )
    caption = (
        f"Wall-clock time of `precast compile` in a new process; caches are empty at first, and the "
        f"encoder-decoders share one. {machine_of(data)}{rates}, torch {data['versions']['torch']}. {judged}."
    )
    return markdown(["model", "first compilation", "same artifact again"], rows, caption)


def rounds_of(data: dict[str, Any]) -> str:
    """Return how a figure was measured: ``median of 7 interleaved rounds, 2 threads each``."""
    return f"median of {data['rounds']} interleaved rounds, {data['threads']} threads each"


def machine_of(data: dict[str, Any]) -> str:
    """Return the machine in a few words."""
    machine = data["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instruction_sets'])})"


def _spread(ratios: Sequence[float]) -> str:
    shown = f"{statistics.median(ratios):.2f}×"
    return shown if len(ratios) == 1 else f"{shown} ({min(ratios):.2f}–{max(ratios):.2f})"


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["texts"], row["batch"], row["contender"]


def _vs_best_peer(row: dict[str, Any]) -> str:
    speedup = row["speedup_vs_best_peer"]
    return "" if speedup is None else f"{speedup:.2f}× {row['best_peer']}"


def _cosine(row: dict[str, Any]) -> str:
    cosine = row["min_cosine"]
    return "" if cosine is None else f"{cosine:.5f}"


def _encoder_caption(data: dict[str, Any]) -> str:
    peers = ", ".join(one["name"] for one in data["contenders"] if one["peer"] != "precast")
    names = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")
    packages = ", ".join(f"{name} {data['versions'][name]}" for name in names if name in data["versions"])
    skipped = "".join(f" Not measured: {one['name']} ({one['reason']})." for one in data["skipped"])
    return (
        f"{data['model']}, {rounds_of(data)}, on {machine_of(data)}, {packages}. "
        f"Peers: {peers}.{skipped} The best peer is the fastest with a cosine of at least 0.999 to HF fp32. "
        f"Compare ratios, not absolute times."
    )
