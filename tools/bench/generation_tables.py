"""Markdown tables of the generation benchmark, from ``generation.json``, and the README's speed table."""

from __future__ import annotations

from typing import Any

from precast.tools.bench.bench_tables import machine_of, markdown, rounds_of

UNMEASURED = "Not yet measured."
_RATIOS = (
    "speedup_vs_ctranslate2_int8", "speedup_vs_ctranslate2_fp32", "speedup_vs_hf_fp32", "speedup_vs_hf_bf16",
)  # fmt: skip
_PEERS = ("HF generate bf16", "CTranslate2 fp32", "CTranslate2 int8")
_SPEED_ENCODER = (("short", 1), ("mixed", 1), ("short", 32), ("mixed", 32), ("long", 32))
"""Text set and batch size of the speed table's rows."""
_SPEED_GENERATION = ((1, 1), (16, 1), (16, 4))
"""Batch size and number of beams of the speed table's rows."""
_SPEED_PRECISIONS = ("bf16", "int8")


def generation(data: dict[str, Any]) -> str:
    """Return one row for each model, batch size, search and precast artifact."""
    if data["quick"]:
        return UNMEASURED
    heads = [
        "", "", "tokens/s", "vs. CTranslate2 int8", "vs. CTranslate2 fp32", "vs. HF fp32", "vs. HF bf16",
        "token agreement with HF fp32",
    ]  # fmt: skip
    rows = [
        [
            _setting(row), row["contender"], f"{row['tokens_per_s']:.0f}",
            *(f"{row[name]:.2f}×" for name in _RATIOS), f"{row['token_agreement']:.0%}",
        ]
        for row in data["rows"]
        if row["contender"].startswith("precast")
    ]  # fmt: skip
    shapes = " and ".join(f"{shape['name']} ({_weights(shape)})" for shape in data["shapes"])
    versions = data["versions"]
    caption = (
        f"Architectures: {shapes}; {data['source_length']} tokens in and {data['new_tokens']} out; "
        f"{rounds_of(data)}, {_machine(data)}, transformers {versions['transformers']}, CTranslate2 "
        f"{versions['ctranslate2']}. {_peer_agreement(data)}"
    )
    return markdown(heads, rows, caption)


def generation_load(data: dict[str, Any]) -> str:
    """Return one row for each arrival pattern and way of batching requests of mixed lengths."""
    if data["quick"]:
        return UNMEASURED
    load = data["load"]
    rows = [
        [row["arrival"], row["batching"], f"{row['tokens_per_s']:.0f}",
         f"{row['p50_s']:.2f} s", f"{row['p95_s']:.2f} s"]
        for row in load["rows"]
    ]  # fmt: skip
    by_steps = ", ".join(
        f"{row['steps_per_sync']}: {row['tokens_per_s']:.0f}" for row in load["by_steps_per_sync"]
    )
    caption = (
        f"{load['requests']} requests to {load['contender']}, {load['shape']} architecture: sources of 5 to "
        f"60 tokens, targets of 8 to 64. The stream is a Poisson process of "
        f"{load['stream_requests_per_s']:.1f} requests/s, 70% of the throughput of continuous batching with "
        f"simultaneous arrivals. Median of {load['rounds']} interleaved rounds, {data['threads']} threads, "
        f"{_machine(data)}. Tokens/s with simultaneous arrivals by `steps_per_sync`: {by_steps}."
    )
    return markdown(["arrivals", "batching", "tokens/s", "p50 latency", "p95 latency"], rows, caption)


def speed(encoder: dict[str, Any], generated: dict[str, Any]) -> str:
    """Return the README's speed table: a few workloads, each with its speedup over the best peer.

    Args:
        encoder: the content of ``bench_encoder.json``.
        generated: the content of ``generation.json``.
    """
    if generated["quick"]:
        return UNMEASURED
    model = generated["shapes"][0]["name"]
    rows = [_encoder_speed(encoder, texts, batch) for texts, batch in _SPEED_ENCODER]
    rows += [_generation_speed(generated, model, batch, beams) for batch, beams in _SPEED_GENERATION]
    heads = ["", *(f"precast {precision}" for precision in _SPEED_PRECISIONS), "compared with"]
    caption = (
        f"{encoder['model']} from text to embeddings; {model} architecture from token ids to token "
        f"ids. Median of {encoder['rounds']} and {generated['rounds']} interleaved rounds, "
        f"{encoder['threads']} threads, on {machine_of(encoder)}."
    )
    return markdown(heads, rows, caption)


def _encoder_speed(data: dict[str, Any], texts: str, batch: int) -> list[str]:
    rows = {
        row["contender"]: row
        for row in data["rows"]
        if (row["texts"], row["batch"], row["input"]) == (texts, batch, "texts")
    }
    ours = [rows[f"precast {precision}"] for precision in _SPEED_PRECISIONS]
    cells = [f"{row['texts_per_s']:,.0f} texts/s, **{row['speedup_vs_best_peer']:.1f}×**" for row in ours]
    return [f"{data['model']}, {texts} texts, batch {batch}", *cells, f"{ours[0]['best_peer']} (best peer)"]


def _generation_speed(data: dict[str, Any], model: str, batch: int, beams: int) -> list[str]:
    rows = {
        row["contender"]: row
        for row in data["rows"]
        if (row["shape"], row["batch"], row["beams"]) == (model, batch, beams)
    }
    ours = [rows[f"precast {precision}"] for precision in _SPEED_PRECISIONS]
    cells = [
        f"{row['tokens_per_s']:,.0f} tokens/s, **{row['speedup_vs_ctranslate2_int8']:.1f}×**" for row in ours
    ]
    return [f"{model}, {_search(beams)}, batch {batch}", *cells, "CTranslate2 int8"]


def _weights(shape: dict[str, Any]) -> str:
    return "trained on a toy task" if shape["training"] else "random weights"


def _setting(row: dict[str, Any]) -> str:
    return f"{row['shape']}, batch {row['batch']}, {_search(row['beams'])}"


def _search(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"


def _peer_agreement(data: dict[str, Any]) -> str:
    """Return the lowest token agreement of each peer: what its speed is worth."""
    lowest: dict[str, dict[str, float]] = {}
    for row in data["rows"]:
        name, shares = row["contender"], lowest.setdefault(row["shape"], {})
        if name in _PEERS:
            shares[name] = min(row["token_agreement"], shares.get(name, 1.0))
    text = "; ".join(
        f"{shape}: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}"
        for shape, shares in lowest.items()
    )
    return f"Lowest token agreement of the peers with HF fp32: {text}."


def _machine(data: dict[str, Any]) -> str:
    return f"on {machine_of(data)}, torch {data['versions']['torch']}"
