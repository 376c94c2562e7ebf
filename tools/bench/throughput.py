"""Batch 32 of short, mixed and long texts: strings in, normalized embeddings out, beside HF eager.

What counts is the ratio within a row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import precast
from precast.tools.bench.minilm import artifact, checkpoint
from precast.tools.bench.results import summary, write_result
from precast.tools.bench.texts import texts
from precast.tools.bench.turns import Turns

Contender = Callable[[Sequence[str]], np.ndarray]
"""Texts to normalized embeddings ``[n, size]``."""


def hugging_face(dtype: str) -> Contender:
    """HF eager with its own tokenizer, mean pooling and normalization, as the model card does it."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    path = checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    model.eval()

    @torch.inference_mode()
    def embed(batch: Sequence[str]) -> np.ndarray:
        inputs = tokenizer(list(batch), padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None].float()
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        result: np.ndarray = F.normalize(pooled, dim=-1).numpy()
        return result

    return embed


def loaded(path: Path) -> Contender:
    """An artifact's ``embed``."""
    embed: Contender = precast.load(path).embed
    return embed


def makers(artifacts: Mapping[str, Path]) -> dict[str, Callable[[], Contender]]:
    """HF in both dtypes and the artifact of each."""
    return {
        "HF eager fp32": partial(hugging_face, "fp32"),
        "HF eager bf16": partial(hugging_face, "bf16"),
        **{f"precast {dtype}": partial(loaded, path) for dtype, path in artifacts.items()},
    }


def measure(turns: Turns[Sequence[str], np.ndarray], rounds: int) -> list[dict[str, object]]:
    """One row a text kind and contender: times, speed against HF, cosine against HF fp32."""
    rows: list[dict[str, object]] = []
    for kind in ("short", "mixed", "long"):
        answers, seconds = turns.measured(texts(kind), rounds)
        times = {name: summary(taken) for name, taken in seconds.items()}
        base = {name: found["median_ms"] for name, found in times.items()}
        for name, answer in answers.items():
            rows.append(
                {
                    "texts": kind,
                    "contender": name,
                    **times[name],
                    "times_hf_fp32": round(base["HF eager fp32"] / base[name], 2),
                    "times_hf_bf16": round(base["HF eager bf16"] / base[name], 2),
                    "least_cosine": round(float((answer * answers["HF eager fp32"]).sum(-1).min()), 6),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    paths = {dtype: artifact(options.artifacts, dtype) for dtype in ("fp32", "bf16")}
    with Turns(makers(paths)) as turns:
        rows = measure(turns, options.rounds)
    content = {"model": "all-MiniLM-L6-v2", "batch": 32, "rounds": options.rounds, "rows": rows}
    print(f"wrote {write_result('encoder_throughput', content).name}")


if __name__ == "__main__":
    main()
