"""The tables of ``precast bench``, of the aims, of the steps that made it fast, and of the memory floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_HEADS = (
    "texts", "batch", "", "from strings, against the best peer", "token ids in, against the best peer",
    "from strings, against HF fp32", "least cosine to HF fp32",
)  # fmt: skip


def encoder_bench(data: dict[str, Any]) -> str:
    """A row for each set of texts, batch and artifact of ours; the best peer is named for each."""
    lines = [f"| {' | '.join(_HEADS)} |", "|---" * len(_HEADS) + "|"]
    ours = [one["name"] for one in data["contenders"] if one["peer"] == "precast"]
    alone = {_place(row): row for row in data["rows"] if row["input"] == "ids"}
    for row in data["rows"]:
        if row["input"] == "texts" and row["contender"] in ours:
            cells = [row["texts"], str(row["batch"]), row["contender"], _best(row), _best(alone[_place(row)])]
            cells += [f"{row['times_hf_fp32']:.2f}×", _cosine(row)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _origin(data)])


def cold_start(data: dict[str, Any]) -> str:
    """A row for each contender: what a fresh process does until its first answer."""
    phases = list(next(iter(data["contenders"]))["cold_start_s"])
    heads = ["", *phases, "after importing torch, against sentence-transformers"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    after = {one["name"]: after_torch(one["cold_start_s"]) for one in data["contenders"]}
    theirs = min((after[name] for name in after if name.startswith("sentence-transformers")), default=None)
    for one in data["contenders"]:
        cells = [f"{one['cold_start_s'][phase]:.2f} s" for phase in phases]
        ratio = "" if theirs is None else f"{theirs / after[one['name']]:.1f}×"
        lines.append(f"| {' | '.join([one['name'], *cells, ratio])} |")
    return "\n".join([*lines, "", _origin(data)])


def after_torch(seconds: Mapping[str, float]) -> float:
    """Seconds of a cold start without the interpreter and torch."""
    return sum(seconds[phase] for phase in ("import", "load", "first answer"))


def steps(data: dict[str, Any]) -> str:
    """Of ``steps.json``: a row for each step, a column for each piece of work."""
    columns = list(dict.fromkeys((row["model"], row["work"]) for row in data["rows"]))
    heads = ["", *(f"{model}, {work}" for model, work in columns)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    times = {(row["step"], row["model"], row["work"]): row["times_first"] for row in data["rows"]}
    for step in dict.fromkeys(row["step"] for row in data["rows"]):
        cells = [f"{times[step, model, work]:.2f}×" for model, work in columns]
        lines.append(f"| {' | '.join([step, *cells])} |")
    rounds, threads, torch = data["rounds"], data["threads"], data["versions"]["torch"]
    origin = (
        f"Speed against the first row; medians of {rounds} rounds in turns, {threads} threads each, "
        f"on {_where(data)}, torch {torch}."
    )
    return "\n".join([*lines, "", origin])


def floor(data: dict[str, Any]) -> str:
    """Of ``floor.json``: a row for each precision."""
    heads = ["", "weights of a step", "reading them, of a `decode` step", "reading them, of a whole token"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in data["rows"]:
        name = f"{row['model']}, {row['precision']}"
        shares = (row["reading"]["median_ms"] / row[what]["median_ms"] for what in ("step", "token"))
        cells = [f"{row['bytes'] / 1e6:.1f} MB", *(f"{share:.0%}" for share in shares)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    origin = (
        f"One source, greedy search; medians of {data['rounds']} rounds in turns, {data['threads']} threads "
        f"each, on {_where(data)}, torch {data['versions']['torch']}."
    )
    return "\n".join([*lines, "", origin])


def aims(data: dict[str, Any]) -> str:
    """Of ``aims.json``: a row for each aim, a column for each contender of ours; medians over all runs.

    An aim is met by a contender whose answers were near enough in every run.
    """
    runs = [run["aims"] for run in data["rows"]]
    ours = list(runs[-1][0]["found"])
    heads = ["", "beside", "aim", *ours, ""]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for of_all in zip(*runs, strict=True):
        found = [[one["found"][name] for one in of_all] for name in ours]
        counted = set(ours).intersection(*(one["counted"] for one in of_all))
        best = max(
            (statistics.median(ratios) for name, ratios in zip(ours, found, strict=True) if name in counted),
            default=0.0,
        )
        wanted = of_all[-1]["wanted"]
        cells = [of_all[-1]["what"], of_all[-1]["peer"], f"{wanted:g}×", *map(_spread, found)]
        lines.append(f"| {' | '.join([*cells, 'met' if best >= wanted else 'missed'])} |")
    occasions = ", ".join(f"{run['recorded']} ({run['rounds']} rounds)" for run in data["rows"])
    origin = (
        f"Times as fast; the median of {len(runs)} runs of the whole comparison and, in brackets, the least "
        f"and the most. Rounds in turns, {data['threads']} threads each, on "
        f"{_where(data)}, torch {data['versions']['torch']}; runs of {occasions}. "
        f"The best peer is the fastest with a cosine of at least 0.999 to HF fp32. {_equal_tokens(runs)}"
    )
    return "\n".join([*lines, "", origin])


def _equal_tokens(runs: Sequence[Sequence[dict[str, Any]]]) -> str:
    """What speed in generation is worth: the least share of right tokens in any run."""
    least: dict[str, float] = {}
    for one in (one for run in runs for one in run if "equal_tokens" in one):
        for name, share in one["equal_tokens"].items():
            least[name] = min(share, least.get(name, 1.0))
    found = ", ".join(f"{name} {share:.1%}" for name, share in least.items())
    return f"In generation the least share of HF fp32's tokens: {found}."


def profile(data: dict[str, Any], model: str = "MiniLM-L6") -> str:
    """Of ``profile.json``: a row for each group of functions, a column for each piece of work of a model."""
    works = {row["work"]: row["shares"] for row in data["rows"] if row["model"] == model}
    lines = [f"| {' | '.join(['', *works])} |", "|---" * (len(works) + 1) + "|"]
    for group in next(iter(works.values())):
        lines.append(f"| {' | '.join([group, *(f'{shares[group]:.1%}' for shares in works.values())])} |")
    origin = f"Shares of the processors' time, {data['threads']} threads, on {_where(data)}."
    return "\n".join([*lines, "", origin])


def _spread(ratios: Sequence[float]) -> str:
    shown = f"{statistics.median(ratios):.2f}×"
    return shown if len(ratios) == 1 else f"{shown} ({min(ratios):.2f}–{max(ratios):.2f})"


def _where(data: dict[str, Any]) -> str:
    machine = data["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instruction_sets'])})"


def _place(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["texts"], row["batch"], row["contender"]


def _best(row: dict[str, Any]) -> str:
    ratio = row["times_best_peer"]
    return "" if ratio is None else f"{ratio:.2f}× {row['best_peer']}"


def _cosine(row: dict[str, Any]) -> str:
    found = row["least_cosine"]
    return "" if found is None else f"{found:.5f}"


def _origin(data: dict[str, Any]) -> str:
    versions = data["versions"]
    peers = ", ".join(one["name"] for one in data["contenders"] if one["peer"] != "precast")
    names = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")
    shown = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    without = "".join(f" Not measured: {one['name']} ({one['reason']})." for one in data["skipped"])
    return (
        f"{data['model']}, median of {data['rounds']} rounds in turns, {data['threads']} threads each, on "
        f"{_where(data)}, {shown}. "
        f"Peers: {peers}.{without} The best peer is the fastest of those with a cosine of at least 0.999 to "
        f"HF fp32. Ratios count, not times."
    )
