"""Random checkpoints for tests: a small one of every family, and BERT-base in its real shape.

Norms and biases get random values: with the defaults, ones and zeros, a check would not notice that one of
them is not applied.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
    UMT5ForConditionalGeneration,
)

VOCAB = 160
MAX_LENGTH = 256
"""Positions of a small model; its attention windows and relative distances are far shorter."""
SPREAD = 0.15
"""Standard deviation of weights. With the default of 0.02 attention is almost uniform and hides mistakes."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BERT_LIKE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": SPREAD,
}
_LLAMA_LIKE: dict[str, Any] = {
    **_BERT_LIKE,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "d_kv": 32,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_max_distance": 24,
}
_BART_LIKE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    **{f"{half}_layers": 2 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 128 for half in ("encoder", "decoder")},
    "max_position_embeddings": MAX_LENGTH,
    "init_std": SPREAD,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def _auto(model_type: str, **values: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(model_type, **values))
    return model


def _bart_like(kind: str) -> PreTrainedModel:
    """Return a model with encoder and decoder, and with random instead of zero logits biases."""
    make = getattr(transformers, kind)
    model: PreTrainedModel = make(make.config_class(**_BART_LIKE))
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":
            buffer.normal_(generator=torch.Generator().manual_seed(7))
    return model


def _distilbert() -> PreTrainedModel:
    names = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    }
    return _auto("distilbert", **{names.get(name, name): value for name, value in _BERT_LIKE.items()})


def _modernbert() -> PreTrainedModel:
    names = ("pad", "bos", "eos", "cls", "sep")
    special = {f"{name}_token_id": at for at, name in enumerate(names)}
    return _auto(
        "modernbert",
        **_BERT_LIKE,
        **special,
        local_attention=16,
        global_attn_every_n_layers=2,
        norm_bias=True,
    )


def _gemma3() -> PreTrainedModel:
    types = ["sliding_attention", "full_attention"]
    return _auto("gemma3_text", **_LLAMA_LIKE, layer_types=types, sliding_window=9, query_pre_attn_scalar=32)


def _positions_from(padding_idx: int) -> dict[str, Any]:
    """Return the configuration of RoBERTa's positions, which start after the padding id."""
    return {"pad_token_id": padding_idx, "max_position_embeddings": MAX_LENGTH + padding_idx + 1}


_BART_CLASSES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
    "marian": "MarianMTModel",
    "m2m_100": "M2M100ForConditionalGeneration",
    "blenderbot": "BlenderbotForConditionalGeneration",
    "blenderbot_small": "BlenderbotSmallForConditionalGeneration",
}
_MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: _auto("bert", **_BERT_LIKE),
    "roberta": lambda: _auto("roberta", **_BERT_LIKE | _positions_from(1)),
    "distilbert": _distilbert,
    "mpnet": lambda: _auto("mpnet", **_BERT_LIKE | _positions_from(1)),
    "electra": lambda: _auto("electra", **_BERT_LIKE, embedding_size=32),
    "albert": lambda: _auto("albert", **_BERT_LIKE, embedding_size=32),
    "modernbert": _modernbert,
    "t5": lambda: T5EncoderModel(T5Config(**_T5, feed_forward_proj="relu")),
    "umt5": lambda: UMT5EncoderModel(UMT5Config(**_T5, feed_forward_proj="gated-gelu")),
    "llama": lambda: _auto("llama", **_LLAMA_LIKE, attention_bias=True),
    "mistral": lambda: _auto("mistral", **_LLAMA_LIKE, sliding_window=9),
    "qwen3": lambda: _auto("qwen3", **_LLAMA_LIKE),
    "gemma3": _gemma3,
    **{name: partial(_bart_like, kind) for name, kind in _BART_CLASSES.items()},
}
SMALL: tuple[str, ...] = tuple(_MAKERS)
"""The models of ``write_small``: the families, and umT5, a T5 with gated layers and a bias in each layer."""
FAMILIES: tuple[str, ...] = tuple(name for name in SMALL if name != "umt5")
"""The families that precast supports, by their names in its registry."""


def write_small(family: str, folder: Path) -> Path:
    """Write a checkpoint of two layers and head size 32, without a tokenizer; return its directory.

    Args:
        family: one of ``SMALL``.
        folder: directory to write.

    Raises:
        ValueError: there is no small model of this family.
    """
    if family not in _MAKERS:
        raise ValueError(f"family must be one of {', '.join(SMALL)}, found {family!r}")
    torch.manual_seed(0)
    return _write(_MAKERS[family](), folder)


_SEQ2SEQ_MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**_T5, feed_forward_proj="relu", decoder_start_token_id=0)
    ),
    "umt5": lambda: UMT5ForConditionalGeneration(
        UMT5Config(**_T5, feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    ),
    **{name: make for name, make in _MAKERS.items() if name in _BART_CLASSES},
}
SEQ2SEQ: tuple[str, ...] = tuple(_SEQ2SEQ_MAKERS)
"""The models of ``write_small_seq2seq``."""


def write_small_seq2seq(family: str, folder: Path) -> Path:
    """Write a checkpoint of one of ``SEQ2SEQ``, with encoder and decoder; return its directory."""
    torch.manual_seed(0)
    return _write(_SEQ2SEQ_MAKERS[family](), folder)


def write_bert_base(folder: Path, *, labels: int = 2, tokenizer: bool = True, **changes: Any) -> Path:
    """Write BERT-base with a classification head and a WordPiece tokenizer; return its directory.

    Args:
        folder: directory to write.
        labels: number of labels of the classification head.
        tokenizer: whether to write a tokenizer.
        **changes: changes of the configuration, for a smaller model.
    """
    torch.manual_seed(0)
    config = BertConfig(num_labels=labels, **changes)
    _write(BertForSequenceClassification(config), folder)
    if tokenizer:
        word_piece(config.vocab_size, config.max_position_embeddings).save_pretrained(folder)
    return folder


def word_piece(size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Return a lower-case WordPiece tokenizer with ``size`` entries: letters, endings, invented words."""
    return bert_tokenizer(_entries(size), max_length)


def bert_tokenizer(entries: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer over ``entries``, with BERT's special tokens and token types."""
    vocabulary = {token: index for index, token in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL},
    )


def random_texts(count: int, words: int, size: int, seed: int = 0) -> list[str]:
    """Return random texts of about ``words`` tokens each from the vocabulary of ``word_piece(size)``.

    One word in eight has an ending, which the tokenizer splits off.
    """
    rng = random.Random(seed)
    known = [entry for entry in _entries(size) if len(entry) > 3 and entry.isalpha()] or ["a"]
    return [
        " ".join(rng.choice(known) + ("s" if rng.random() < 0.125 else "") for _ in range(words)) + "."
        for _ in range(count)
    ]


def _entries(size: int) -> list[str]:
    """Return special tokens, characters, endings and words of two to four syllables, in a fixed order."""
    letters = string.ascii_lowercase + string.digits
    entries = [*SPECIAL, *letters, *string.punctuation, *(f"##{letter}" for letter in letters)]
    syllables = [first + second for first in "bdfghklmnprstvwz" for second in "aeiou"]
    rng = random.Random(7)
    seen = set(entries)
    while len(entries) < size:
        word = "".join(rng.choice(syllables) for _ in range(rng.randint(2, 4)))
        if word not in seen:
            seen.add(word)
            entries.append(word)
    return entries[:size]


def _write(model: PreTrainedModel, folder: Path) -> Path:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    folder.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    model.eval().save_pretrained(folder)
    return folder
