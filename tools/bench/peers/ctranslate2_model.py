"""A checkpoint converted to CTranslate2's format, without a tokenizer: ids go in and come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter
from transformers import AutoConfig


class _Numbers:
    """A tokenizer as far as the converter asks for one: token ``17`` is the text ``"17"``.

    The padding token of Marian is named as in OPUS-MT, because the converter drops it by that name.
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
    """CTranslate2's own converter, given a tokenizer that no file holds."""

    def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
        model = super().load_model(model_class, model_name_or_path, **kwargs)
        if not model.config.is_encoder_decoder:
            # transformers 5 has no other positions and dropped the word for them; the converter asks for it.
            model.config.position_embedding_type = "absolute"
        return model

    def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: str, **kwargs: Any) -> _Numbers:
        config = AutoConfig.from_pretrained(model_name_or_path)
        if not config.is_encoder_decoder:
            return _Numbers(config.vocab_size, {}, 0, 1)
        named = {config.pad_token_id: "<pad>"} if config.model_type == "marian" else {}
        return _Numbers(config.vocab_size, named, config.decoder_start_token_id, config.eos_token_id)


def convert(checkpoint: Path, folder: Path) -> Path:
    """Convert in fp32; the type to compute in is chosen when the model is loaded.

    Args:
        checkpoint: an encoder-decoder as T5 or Marian, or an encoder as BERT.
        folder: to write into; what is there is replaced.

    Returns:
        The folder.
    """
    _Converter(str(checkpoint)).convert(str(folder), force=True)
    return folder
