"""Conversion of a checkpoint to CTranslate2's format, without a tokenizer: token ids in, token ids out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter
from transformers import AutoConfig


class _Numbers:
    """The part of a tokenizer that the converter uses: token ``17`` is the text ``"17"``.

    The padding token of Marian has its OPUS-MT name, by which the converter removes it.
    """

    def __init__(self, size: int, named: dict[int, str], start: int, end: int) -> None:
        self._names = [named.get(token, str(token)) for token in range(size)]
        self.bos_token = self.pad_token = self._names[start]
        self.eos_token = self._names[end]
        self.unk_token = self._names[2]

    def get_vocab(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self._names)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._names[token]


class _Converter(TransformersConverter):
    """CTranslate2's converter with a tokenizer that is not read from a file."""

    def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
        model = super().load_model(model_class, model_name_or_path, **kwargs)
        if not model.config.is_encoder_decoder:
            # transformers 5 removed this attribute, which the converter reads.
            model.config.position_embedding_type = "absolute"
        return model

    def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: str, **kwargs: Any) -> _Numbers:
        config = AutoConfig.from_pretrained(model_name_or_path)
        if not config.is_encoder_decoder:
            return _Numbers(config.vocab_size, {}, 0, 1)
        named = {config.pad_token_id: "<pad>"} if config.model_type == "marian" else {}
        return _Numbers(config.vocab_size, named, config.decoder_start_token_id, config.eos_token_id)


def convert(checkpoint: Path, folder: Path) -> Path:
    """Convert a checkpoint in fp32 and return ``folder``; the compute type is set when the model is loaded.

    Args:
        checkpoint: directory of an encoder-decoder such as T5 or Marian, or of an encoder such as BERT.
        folder: directory to write; replaced if it exists.
    """
    _Converter(str(checkpoint)).convert(str(folder), force=True)
    return folder
