"""Converts a checkpoint's tokenizer to a ``tokenizer.json`` that the runtime uses without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tokenizers import normalizers
from transformers import AutoTokenizer, ByT5Tokenizer

from precast.artifacts.tokenization import DecodingInfo, LanguageInfo
from precast.compiler.errors import CheckpointError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.tokenizers.byt5 import convert_byt5
from precast.compiler.frontend.tokenizers.decoding import describe_decoding
from precast.compiler.frontend.tokenizers.languages import describe_languages
from precast.compiler.frontend.tokenizers.slow import PIECES_FILE, convert, is_sentencepiece

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model",
          "sentencepiece.bpe.model", "tokenizer.model", "source.spm")  # fmt: skip
_UNLIMITED = 1 << 30
"""transformers represents no limit as 10**30."""


@dataclass(frozen=True)
class TokenizerFacts:
    """A serialized tokenizer without truncation and padding, and its properties.

    Attributes:
        serialized: the content of ``tokenizer.json``.
        gives_token_types: whether the model takes token types from it.
        truncation_side: side on which long texts are cut.
        max_length: of the tokenizer, or None.
        special_ids: ids of all special tokens.
        added_tokens: the number of special tokens that it adds to every text.
        empty_id: the token that represents an empty text.
        decoding: how ids become text; None for an encoder's tokenizer.
        languages: of translation models.
        extra_files: other files by name, with their content.
    """

    serialized: str
    gives_token_types: bool
    truncation_side: Literal["left", "right"]
    max_length: int | None
    special_ids: tuple[int, ...]
    added_tokens: int
    empty_id: int
    decoding: DecodingInfo | None = None
    languages: LanguageInfo | None = None
    extra_files: Mapping[str, str] = field(default_factory=dict)


def read_tokenizer(checkpoint: Checkpoint, *, lower_case: bool) -> TokenizerFacts | None:
    """Read the tokenizer as ``transformers`` uses it; None if the checkpoint has none.

    transformers modifies a ``tokenizer.json`` when it loads it (added tokens, a BOS by configuration), so the
    loaded tokenizer is serialized, not the file copied.

    Args:
        checkpoint: to read from.
        lower_case: sentence-transformers' ``do_lower_case``: convert text to lower case first.

    Raises:
        CheckpointError: the tokenizer cannot be loaded, or is not one of the tokenizers library.
    """
    tokenizer = _load(checkpoint)
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{type(tokenizer).__name__} has no fast form; precast supports tokenizers that run in the "
            f"tokenizers library"
        )
    backend.no_truncation()
    backend.no_padding()
    if lower_case:
        steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = normalizers.Sequence(steps)
    return _facts(tokenizer, backend.to_str(), backend.num_special_tokens_to_add(False))


def read_generation_tokenizer(checkpoint: Checkpoint) -> TokenizerFacts | None:
    """Read the tokenizer of an encoder-decoder, with its decoding and languages; None if there is none.

    Args:
        checkpoint: to read from.

    Raises:
        CheckpointError: the tokenizer neither runs in the tokenizers library nor can be converted to it.
    """
    tokenizer = _load(checkpoint)
    if tokenizer is None:
        return None
    if not (isinstance(tokenizer, ByT5Tokenizer) or is_sentencepiece(tokenizer)):
        facts = read_tokenizer(checkpoint, lower_case=False)
        assert facts is not None
        decoding = describe_decoding(tokenizer)
        return replace(facts, decoding=decoding, languages=describe_languages(tokenizer))
    converted = convert(tokenizer, checkpoint) if is_sentencepiece(tokenizer) else convert_byt5(tokenizer)
    added_tokens = len(tokenizer.build_inputs_with_special_tokens([]))
    return replace(
        _facts(tokenizer, converted.serialized, added_tokens),
        decoding=converted.decoding,
        languages=describe_languages(tokenizer),
        extra_files={} if converted.pieces is None else {PIECES_FILE: converted.pieces},
    )


def _load(checkpoint: Checkpoint) -> Any:
    """Load the tokenizer with transformers; None if the checkpoint has none."""
    if not any((checkpoint.path / name).is_file() for name in _FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:  # converters raise many kinds of errors
        raise CheckpointError(f"transformers cannot load the tokenizer: {error}") from error


def _facts(tokenizer: Any, serialized: str, added_tokens: int) -> TokenizerFacts:
    limit = tokenizer.model_max_length
    return TokenizerFacts(
        serialized=serialized,
        gives_token_types="token_type_ids" in tokenizer.model_input_names,
        truncation_side="left" if tokenizer.truncation_side == "left" else "right",
        max_length=int(limit) if limit and limit < _UNLIMITED else None,
        special_ids=tuple(sorted(tokenizer.all_special_ids)),
        added_tokens=added_tokens,
        empty_id=_empty_id(tokenizer),
    )


def _empty_id(tokenizer: Any) -> int:
    """The token for an empty text: that of the beginning, else of the end, else of padding."""
    for name in ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "pad_token_id"):
        token_id = getattr(tokenizer, name, None)
        if token_id is not None:
            return int(token_id)
    return 0
