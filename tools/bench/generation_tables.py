"""README's tables of generation, from ``generation.json``."""

from __future__ import annotations

from typing import Any

ABSENT = "Not measured yet."


def generation(data: dict[str, Any]) -> str:
    """Calls in turns: a row for each of precast's own."""
    if data["quick"]:
        return ABSENT
    heads = [
        "", "", "tokens/s", "against CTranslate2 int8", "against CTranslate2 fp32",
        "against HF fp32", "against HF bf16", "same tokens as HF fp32",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    ratios = ("times_ctranslate2_int8", "times_ctranslate2_fp32", "times_hf_fp32", "times_hf_bf16")
    for row in data["rows"]:
        if row["contender"].startswith("precast"):
            cells = [_setting(row), row["contender"], f"{row['tokens_per_s']:.0f}"]
            cells += [*(f"{row[name]:.2f}×" for name in ratios), f"{row['equal_tokens']:.0%}"]
            lines.append(f"| {' | '.join(cells)} |")
    shapes = " and ".join(f"{shape['name']} ({_weights(shape)})" for shape in data["shapes"])
    lengths = f"{data['source_length']} tokens in and {data['new_tokens']} out"
    used = data["versions"]
    origin = (
        f"{shapes} in shape, {lengths}, median of {data['rounds']} rounds in turns, {data['threads']} "
        f"threads each, {_machine(data)}, transformers {used['transformers']}, CTranslate2 "
        f"{used['ctranslate2']}. {_others(data)}"
    )
    return "\n".join([*lines, "", origin])


def generation_load(data: dict[str, Any]) -> str:
    """Requests of many lengths: a row for each kind of arrival and way to serve."""
    if data["quick"]:
        return ABSENT
    load = data["load"]
    heads = ["requests come", "served", "tokens/s", "p50 latency", "p95 latency"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [
        f"| {row['arrival']} | {row['way']} | {row['tokens_per_s']:.0f} | {row['p50_s']:.2f} s | "
        f"{row['p95_s']:.2f} s |"
        for row in load["rows"]
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"{load['requests']} requests to {load['contender']}, {load['shape']} in shape: sources of 5 to "
            f"60 tokens, targets of 8 to 64; the stream brings {load['stream_requests_per_s']:.1f} a second, "
            f"seven tenths of what is served in flight when all are there. Medians of {load['rounds']} "
            f"rounds in turns, {data['threads']} threads, {_machine(data)}. {_looks(load['looks'])}",
        ]
    )


def _looks(rows: list[dict[str, Any]]) -> str:
    found = ", ".join(f"{row['steps_per_sync']}: {row['tokens_per_s']:.0f}" for row in rows)
    return f"Tokens/s of all at once by `steps_per_sync`: {found}."


def _weights(shape: dict[str, Any]) -> str:
    return "trained to sort and translate words" if shape["training"] else "drawn weights"


def _setting(row: dict[str, Any]) -> str:
    search = "greedy" if row["beams"] == 1 else f"{row['beams']} beams"
    return f"{row['shape']}, batch {row['batch']}, {search}"


def _others(data: dict[str, Any]) -> str:
    """What the numbers of the others are good for: how far they agree with the same reference."""
    least: dict[str, dict[str, float]] = {}
    for row in data["rows"]:
        name, shares = row["contender"], least.setdefault(row["shape"], {})
        if name in ("HF generate bf16", "CTranslate2 fp32", "CTranslate2 int8"):
            shares[name] = min(row["equal_tokens"], shares.get(name, 1.0))
    found = "; ".join(
        f"{shape}: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}"
        for shape, shares in least.items()
    )
    return f"The least share of HF fp32's tokens that the others gave: {found}."


def _machine(data: dict[str, Any]) -> str:
    machine = data["machine"]
    sets = ", ".join(machine["instruction_sets"])
    return f"{machine['cpu']}, {machine['cores']} cores ({sets}), torch {data['versions']['torch']}"
