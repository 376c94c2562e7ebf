"""The encoder-decoders of the benchmarks: real shapes, with trained or random weights.

A model with default random weights repeats one token forever: the input embedding dominates the tied output
projection, or the mean over all tokens that its attention computes does. The weights are changed to avoid
both, so that tokens differ and equal outputs are evidence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, MarianConfig, MarianMTModel, PreTrainedModel, T5Config
from transformers import T5ForConditionalGeneration as T5

from precast.tools.bench.sorting import (
    FIRST_WORD,
    SOURCE_LENGTH,
    Sequences,
    Training,
    held_out,
    train,
)

Kind = Literal["t5", "marian"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        name: name in tables and file names.
        kind: T5, or Marian as in OPUS-MT.
        vocab_size: size of the shared vocabulary.
        hidden_size: hidden size of encoder and decoder.
        inner_size: inner size of the feed-forward layers.
        layers: layers of the encoder, and of the decoder.
        heads: heads of each attention layer.
        training: how the model is trained; None for random weights.
    """

    name: str
    kind: Kind
    vocab_size: int
    hidden_size: int = 512
    inner_size: int = 2048
    layers: int = 6
    heads: int = 8
    training: Training | None = None


SHAPES = (
    Shape("T5-small", "t5", 32_128, training=Training(steps=320)),
    Shape("OPUS-MT", "marian", 58_101),
)
TINY_SHAPES = (
    Shape("tiny T5", "t5", 300, hidden_size=64, inner_size=128, layers=2, heads=2),
    Shape("tiny Marian", "marian", 301, hidden_size=64, inner_size=128, layers=2, heads=2),
)


MODELS = Path("build/bench/generation")
"""Directory of all models; each has a directory with its checkpoint, converted models and artifacts."""


def write_checkpoint(shape: Shape, models: Path) -> Path:
    """Write the checkpoint of a model; a trained one is reused if it exists.

    Args:
        shape: shape of the model.
        models: directory of all models.

    Returns:
        The directory of the checkpoint, inside a directory of this model.

    Raises:
        RuntimeError: the model has not learned its task.
    """
    folder = models / shape.name.lower().replace(" ", "-") / "checkpoint"
    recipe = folder / "recipe.json"
    wanted = json.dumps(asdict(shape))
    if shape.training and recipe.is_file() and recipe.read_text("utf-8") == wanted:
        return folder
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = {"t5": _t5, "marian": _marian}[shape.kind](shape)
    if shape.training:
        print(f"{shape.name}: training; this takes minutes and is done once", flush=True)
        train(model, shape.training)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    recipe.write_text(wanted, "utf-8")
    return folder


def measured_sources(shape: Shape, batch: int, length: int = SOURCE_LENGTH) -> Sequences:
    """Return the same sources on each call: inputs of the model's task, or random token ids.

    Args:
        shape: shape of the model.
        batch: number of sources.
        length: tokens of each source; a trained model requires the length of its training.

    Raises:
        ValueError: the model was trained with another length.
    """
    if shape.training is None:
        return random_sources(shape.vocab_size, batch, length)
    if length != SOURCE_LENGTH:
        raise ValueError(f"{shape.name} was trained on {SOURCE_LENGTH} tokens, got a length of {length}")
    return held_out(shape.vocab_size, batch)


def random_sources(vocab_size: int, batch: int, length: int) -> Sequences:
    """Return random token ids, the same ones on each call."""
    rng = random.Random(0)
    return tuple(
        tuple(rng.randrange(FIRST_WORD, vocab_size - 1) for _ in range(length)) for _ in range(batch)
    )


def _t5(shape: Shape) -> PreTrainedModel:
    config = T5Config(
        vocab_size=shape.vocab_size,
        d_model=shape.hidden_size,
        d_kv=shape.hidden_size // shape.heads,
        d_ff=shape.inner_size,
        num_layers=shape.layers,
        num_heads=shape.heads,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5(config)
    if shape.training is None:
        _both_signs(model.decoder.final_layer_norm.weight)
    model.generation_config = _defaults(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    return model


def _marian(shape: Shape) -> PreTrainedModel:
    pad = shape.vocab_size - 1
    halves = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (
            ("layers", shape.layers),
            ("attention_heads", shape.heads),
            ("ffn_dim", shape.inner_size),
        )
    }
    config = MarianConfig(
        vocab_size=shape.vocab_size,
        d_model=shape.hidden_size,
        **halves,
        activation_function="swish",
        scale_embedding=True,
        max_position_embeddings=512,
        init_std=shape.hidden_size**-0.5,
        pad_token_id=pad,
        eos_token_id=0,
        bos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config)
    with torch.no_grad():
        model.final_logits_bias.normal_(0, 0.1)
        model.get_input_embeddings().weight[pad] = 0  # as in OPUS-MT: the decoder starts from zeros
    _quiet_attention(model)
    _both_signs(model.model.decoder.layers[-1].final_layer_norm.weight)
    model.generation_config = _defaults(
        decoder_start_token_id=pad, eos_token_id=0, pad_token_id=pad, bad_words_ids=[[pad]]
    )
    return model


def _quiet_attention(model: PreTrainedModel) -> None:
    """Scale attention outputs down: random attention is a mean over all tokens and outweighs each one."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("out_proj.weight"):
                weight.mul_(0.3)


def _both_signs(weight: Tensor) -> None:
    """Sample wide weights of both signs, so that the best token stands out as in a trained model."""
    with torch.no_grad():
        weight.normal_(0, 3.0)


def _defaults(**values: Any) -> GenerationConfig:
    defaults: Mapping[str, Any] = {"do_sample": False, "num_beams": 1, "length_penalty": 1.0}
    return GenerationConfig(**defaults, **values)
