"""Tiny artifacts of every encoder task, compiled by the reference backend."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import precast
from precast.artifacts.build_info import BuildInfo
from precast.artifacts.manifest import (
    EncodeManifest,
    FileInfo,
    GraphInfo,
    HiddenInfo,
    ModelInfo,
    TokenizationInfo,
    VariantInfo,
)
from precast.graphs.encode import EncodeLimits, Task, encode_output, encode_signature
from precast.graphs.graph_names import GraphName
from precast.tools.models import SPECIAL, bert_tokenizer
from tests.support.models import save

TASKS: tuple[Task, ...] = ("embed", "classify", "rerank", "token-classify", "hidden")

WORDS = ("the", "cat", "sat", ".")
VOCABULARY = (*SPECIAL, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase), *WORDS)
"""61 tokens: lower-case words are spelled letter by letter, digits are unknown."""

MAX_LENGTH = 32
MAX_TOKENS = 128
MAX_BATCH = 8


@dataclass(frozen=True)
class Tiny:
    """A Hugging Face checkpoint and the artifact compiled from it."""

    checkpoint: Path
    artifact: Path


class TinyModels:
    """Creates one ``Tiny`` for each task on first use. Tests share them: copy one before modifying it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache: dict[str, Tiny] = {}

    def __getitem__(self, task: Task) -> Tiny:
        if task not in self._cache:
            checkpoint = tiny_checkpoint(task, self._folder / f"{task}-checkpoint")
            artifact = tiny_artifact(checkpoint, self._folder / f"{task}.precast")
            self._cache[task] = Tiny(checkpoint, artifact)
        return self._cache[task]


def tiny_tokenizer(max_length: int = MAX_LENGTH) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer over ``VOCABULARY`` with BERT's pairs and token types."""
    return bert_tokenizer(VOCABULARY, max_length)


def tiny_config(*, layers: int = 1, hidden: int = 16, labels: int = 3, **changes: Any) -> BertConfig:
    """Return the smallest BERT configuration that has several heads."""
    settings: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 2 * MAX_LENGTH,
        "num_labels": labels,
        "initializer_range": 0.4,
    }
    return BertConfig(**{**settings, **changes})


def tiny_model(task: Task, config: BertConfig | None = None, *, seed: int = 0) -> PreTrainedModel:
    """Return a randomly initialized BERT with the head of ``task``."""
    model_config = config or tiny_config(labels=1 if task == "rerank" else 3)
    torch.manual_seed(seed)
    if task in ("classify", "rerank"):
        return BertForSequenceClassification(model_config)
    if task == "token-classify":
        return BertForTokenClassification(model_config)
    return BertModel(model_config)


def tiny_checkpoint(
    task: Task,
    folder: Path,
    *,
    config: BertConfig | None = None,
    tokenizer: bool = True,
    seed: int = 0,
    prompts: Mapping[str, str] | None = None,
    pooling: Sequence[str] = ("mean",),
    include_prompt: bool = True,
    normalize: bool = True,
) -> Path:
    """Write a checkpoint of ``task``; for ``embed`` a sentence-transformers directory.

    Args:
        task: The task, which determines the head and the files next to the weights.
        folder: The folder to write to.
        config: The configuration of the model.
        tokenizer: Whether to write a tokenizer.
        seed: The seed of the weights.
        prompts: For ``embed``, texts by name.
        pooling: For ``embed``, sentence-transformers' names of pooling modes.
        include_prompt: For ``embed``, whether pooling includes the prompt's tokens.
        normalize: For ``embed``, whether the last module is Normalize.
    """
    save(tiny_model(task, config, seed=seed), folder)
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    if task == "embed":
        _write_modules(folder, pooling, include_prompt, normalize)
        _write_json(
            folder / "config_sentence_transformers.json",
            {"prompts": dict(prompts or {}), "default_prompt_name": None, "similarity_fn_name": "cosine"},
        )
    if task == "rerank":
        _write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    return folder


def tiny_artifact(checkpoint: Path, output: Path, **options: Any) -> Path:
    """Compile with the reference backend and small limits; ``options`` replace any of these."""
    settings: dict[str, Any] = {
        "backend": "reference",
        "max_length": MAX_LENGTH,
        "max_tokens": MAX_TOKENS,
        "max_batch": MAX_BATCH,
    }
    precast.compile(checkpoint, output, **{**settings, **options})
    return output


def example_manifest() -> EncodeManifest:
    """Return a fixed manifest; its files do not exist."""
    limit = EncodeLimits(8, 32, 4)
    signature = encode_signature(
        limit, encode_output("hidden", 16), device="cpu", token_types=True, prompt_lengths=False
    )
    return EncodeManifest(
        format_version=2,
        model=ModelInfo(
            name="tiny", family="bert", task="hidden", parameters=10, vocab_size=61, hidden_size=16
        ),
        build=BuildInfo(
            precast="0.1.0", torch="2.13.0", target="reference", backend="reference", device="cpu",
            dtype="fp32", quantization=None, architecture="x86_64", instruction_sets=("avx2",), cuda=None,
            options={"prepack": True, "level": 1},
        ),
        limits=limit,
        graphs={
            GraphName.ENCODE: GraphInfo(
                variants=(
                    VariantInfo(file="graphs/encode.json", max_size=32, tuned_at=12, choices={}),
                ),
                signature=signature, buckets=limit.buckets("cpu"), costs=None, weights="bound",
                constants=("a", "b"), prepacked_bytes=0,
            )
        },
        weights="weights.safetensors",
        tokenization=TokenizationInfo(
            file=None, token_types=False, truncation_side="right", empty_id=0, special_ids=(0, 2),
            decoding=None, languages=None,
        ),
        output=HiddenInfo(size=16),
        parity=None,
        notes=("a note",),
        files={
            name: FileInfo(sha256="0" * 64, bytes=5) for name in ("graphs/encode.json", "weights.safetensors")
        },
    )  # fmt: skip


def _write_modules(folder: Path, pooling: Sequence[str], include_prompt: bool, normalize: bool) -> None:
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    folders = ["", "1_Pooling", "2_Normalize"]
    _write_json(
        folder / "modules.json",
        [
            {"idx": at, "name": str(at), "path": folders[at], "type": f"sentence_transformers.models.{kind}"}
            for at, kind in enumerate(kinds)
        ],
    )
    size = json.loads((folder / "config.json").read_text("utf-8"))["hidden_size"]
    modes = {
        "cls": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "max": "pooling_mode_max_tokens",
        "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
        "weightedmean": "pooling_mode_weightedmean_tokens",
        "lasttoken": "pooling_mode_lasttoken",
    }
    flags = {flag: mode in pooling for mode, flag in modes.items()}
    _write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": size, **flags, "include_prompt": include_prompt},
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False})


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), "utf-8")
