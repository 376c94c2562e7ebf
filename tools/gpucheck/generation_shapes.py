"""The encoder-decoders whose generation is timed, with aims and published figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils.logging import disable_progress_bar

from precast.tools.gpucheck.rows import Published

ITEMSIZE = 2
"""Bytes of a bf16 number."""


@dataclass(frozen=True)
class Work:
    """``batch`` sources of random lengths, each decoded to ``new_tokens`` tokens without an end token."""

    batch: int
    num_beams: int
    source: tuple[int, int]
    new_tokens: int
    aim: float | None = None
    published: Published | None = None

    @property
    def num_seqs(self) -> int:
        return self.batch * self.num_beams


@dataclass(frozen=True)
class Timed:
    """A model in its real shape with random bf16 weights, and its workloads.

    The other attributes determine how much memory one step must read: ``weights`` is the number of weights of
    the decoder and its head; each token of the past has keys and values of ``width`` numbers in ``layers``
    layers.
    """

    name: str
    make: Callable[[], PreTrainedModel]
    works: tuple[Work, ...]
    weights: int
    layers: int
    width: int

    def bytes_per_step(self, work: Work, mean_source: float) -> float:
        """Return the bytes of a step at half of the target length; beams share their source."""
        tokens = work.batch * mean_source + work.num_seqs * work.new_tokens / 2
        return ITEMSIZE * (self.weights + 2 * self.layers * self.width * tokens)


def _t5(
    hidden: int, inner: int, layers: int, heads: int, *, gated: bool = False
) -> Callable[[], PreTrainedModel]:
    config = T5Config(
        vocab_size=32_128, d_model=hidden, d_kv=64, d_ff=inner, num_layers=layers, num_heads=heads,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
    )  # fmt: skip
    return lambda: T5ForConditionalGeneration(config)


def _bart(hidden: int, inner: int, layers: int, heads: int) -> Callable[[], PreTrainedModel]:
    sizes = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", inner))
    }
    return lambda: BartForConditionalGeneration(BartConfig(vocab_size=50_264, d_model=hidden, **sizes))


def _marian() -> PreTrainedModel:
    sizes = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (("layers", 6), ("attention_heads", 8), ("ffn_dim", 2048))
    }
    pad = 58_100
    return MarianMTModel(
        MarianConfig(
            vocab_size=pad + 1, d_model=512, **sizes, max_position_embeddings=512, pad_token_id=pad,
            eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=None,
        )
    )  # fmt: skip


def _decoder(hidden: int, inner: int, layers: int, width: int, vocab: int, *, gates: int = 2) -> int:
    """Return the number of weights that a step reads: self- and cross-attention, feed-forward and head."""
    return layers * (4 * hidden * width + 2 * hidden * width + gates * hidden * inner) + hidden * vocab


_LONG = (260, 440)
_SHORT = (20, 60)
_TENSORRT = "TensorRT-LLM"

TIMED: tuple[Timed, ...] = (
    Timed(
        "T5-small", _t5(512, 2048, 6, 8),
        (Work(1, 1, _SHORT, 128, 6_000, Published(906, "HF static cache")),),
        _decoder(512, 2048, 6, 512, 32_128), 6, 512,
    ),
    Timed(
        "T5-base", _t5(768, 3072, 12, 12),
        (
            Work(1, 4, _SHORT, 64, 2_500, Published(671, "FasterTransformer, A100")),
            Work(32, 4, _SHORT, 64, 20_000, Published(7_102, "FasterTransformer, A100")),
        ),
        _decoder(768, 3072, 12, 768, 32_128), 12, 768,
    ),
    Timed(
        "OPUS-MT", _marian,
        (Work(32, 4, _SHORT, 64, 40_000, Published(9_297, "CTranslate2, A10G")),),
        _decoder(512, 2048, 6, 512, 58_101), 6, 512,
    ),
    Timed(
        "BART-large-CNN", _bart(1024, 4096, 12, 16),
        (
            Work(32, 1, _LONG, 128, 25_000, Published(12_611, _TENSORRT)),
            Work(64, 1, _LONG, 128, 45_000, Published(22_007, _TENSORRT)),
            Work(128, 1, _LONG, 128, 63_000, Published(31_544, _TENSORRT)),
        ),
        _decoder(1024, 4096, 12, 1024, 50_264), 12, 1024,
    ),
    Timed(
        "Flan-T5-XL", _t5(2048, 5120, 24, 32, gated=True),
        (
            Work(32, 1, _LONG, 128, 12_000, Published(3_312, _TENSORRT)),
            Work(64, 1, _LONG, 128, 18_000, Published(4_184, _TENSORRT)),
            Work(128, 1, _LONG, 128, 25_000, Published(4_768, _TENSORRT)),
        ),
        _decoder(2048, 5120, 24, 2048, 32_128, gates=3), 24, 2048,
    ),
)  # fmt: skip


def tiny(timed: Timed) -> Timed:
    """Return a tiny model with the same name, for a rehearsal."""
    works = tuple(Work(min(2, one.batch), one.num_beams, (2, 9), 4) for one in timed.works[:1])
    config = T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return Timed(timed.name, lambda: T5ForConditionalGeneration(config), works, 1_000, 1, 16)


def write(timed: Timed, folder: Path, device: str) -> Path:
    """Write the checkpoint in bf16, with weights sampled on the device; return its directory."""
    disable_progress_bar()
    torch.manual_seed(0)
    with torch.device(device):
        model = timed.make().to(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    model.to("cpu").eval().save_pretrained(folder)
    return folder
