"""Batch 32 of short, mixed and long texts: strings in, normalized embeddings out, beside HF eager.

All contenders run in one process, in turns; what counts is the ratio within a row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

import precast
from precast.tools.bench.minilm import artifact, checkpoint
from precast.tools.bench.results import summary, write_result
from precast.tools.bench.texts import texts

Contender = Callable[[list[str]], np.ndarray]


def hugging_face(dtype: torch.dtype) -> Contender:
    """HF eager with its own tokenizer, mean pooling and normalization, as the model card does it."""
    path = checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, dtype=dtype).eval()

    @torch.inference_mode()
    def embed(batch: list[str]) -> np.ndarray:
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None].float()
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        result: np.ndarray = F.normalize(pooled, dim=-1).numpy()
        return result

    return embed


def measure(contenders: dict[str, Contender], rounds: int) -> list[dict[str, object]]:
    """One row a text kind and contender: times, cosine against HF fp32, speed against each."""
    rows: list[dict[str, object]] = []
    for kind in ("short", "mixed", "long"):
        batch = texts(kind)
        expected = contenders["HF eager fp32"](batch)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for contender in contenders.values():
            contender(batch)
        for _ in range(rounds):
            for name, contender in contenders.items():
                started = time.perf_counter()
                contender(batch)
                seconds[name].append(time.perf_counter() - started)
        base = {name: summary(taken)["median_ms"] for name, taken in seconds.items()}
        for name, contender in contenders.items():
            cosine = float((contender(batch) * expected).sum(-1).min())
            rows.append(
                {
                    "texts": kind,
                    "contender": name,
                    **summary(seconds[name]),
                    "times_hf_fp32": round(base["HF eager fp32"] / base[name], 2),
                    "times_hf_bf16": round(base["HF eager bf16"] / base[name], 2),
                    "least_cosine": round(cosine, 6),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    engines = {dtype: precast.load(artifact(options.artifacts, dtype)) for dtype in ("fp32", "bf16")}
    contenders: dict[str, Contender] = {
        "HF eager fp32": hugging_face(torch.float32),
        "HF eager bf16": hugging_face(torch.bfloat16),
        "precast fp32": engines["fp32"].embed,
        "precast bf16": engines["bf16"].embed,
    }
    rows = measure(contenders, options.rounds)
    for engine in engines.values():
        engine.close()
    path = write_result(
        "encoder_throughput",
        {"model": "all-MiniLM-L6-v2", "batch": 32, "rounds": options.rounds, "rows": rows},
    )
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
