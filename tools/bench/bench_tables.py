"""README's table of ``precast bench``, from ``bench_encoder.json``."""

from __future__ import annotations

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


def _place(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["texts"], row["batch"], row["contender"]


def _best(row: dict[str, Any]) -> str:
    ratio = row["times_best_peer"]
    return "" if ratio is None else f"{ratio:.2f}× {row['best_peer']}"


def _cosine(row: dict[str, Any]) -> str:
    found = row["least_cosine"]
    return "" if found is None else f"{found:.5f}"


def _origin(data: dict[str, Any]) -> str:
    machine, versions = data["machine"], data["versions"]
    peers = ", ".join(one["name"] for one in data["contenders"] if one["peer"] != "precast")
    names = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")
    shown = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    without = "".join(f" Not measured: {one['name']} ({one['reason']})." for one in data["skipped"])
    return (
        f"{data['model']}, median of {data['rounds']} rounds in turns, {data['threads']} threads each, on "
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instruction_sets'])}), {shown}. "
        f"Peers: {peers}.{without} Ratios count, not times."
    )
