"""The checkpoint's tokenizer as one ``tokenizer.json`` that needs no transformers to run."""

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
"""transformers writes 10**30 for a tokenizer that knows no limit."""


@dataclass(frozen=True)
class TokenizerFacts:
    """A serialized tokenizer without truncation and padding, and what the runtime must know of it."""

    serialized: str
    gives_token_types: bool
    truncation_side: Literal["left", "right"]
    max_length: int | None
    special_ids: tuple[int, ...]
    added_tokens: int
    """Special tokens that it puts around every text."""
    empty_id: int
    decoding: DecodingInfo | None = None
    """How ids become text; None where nothing but encoding was asked for."""
    languages: LanguageInfo | None = None
    extra_files: Mapping[str, str] = field(default_factory=dict)
    """Files beside ``tokenizer.json``: name to content."""


def read_tokenizer(checkpoint: Checkpoint, *, lower_case: bool) -> TokenizerFacts | None:
    """The tokenizer as ``transformers`` would use it; None where the checkpoint has none.

    transformers changes what is in ``tokenizer.json`` when it loads it (added tokens, a BOS that the
    configuration asks for), so its result is stored and not the file.

    Args:
        checkpoint: opened.
        lower_case: sentence-transformers' ``do_lower_case``: lower-case before anything else.

    Raises:
        CheckpointError: the tokenizer has no fast form.
    """
    tokenizer = _load(checkpoint)
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{type(tokenizer).__name__} has no fast form; precast serves tokenizers that the "
            f"tokenizers library runs"
        )
    backend.no_truncation()
    backend.no_padding()
    if lower_case:
        steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = normalizers.Sequence(steps)
    return _facts(tokenizer, backend.to_str(), backend.num_special_tokens_to_add(False))


def read_generation_tokenizer(checkpoint: Checkpoint) -> TokenizerFacts | None:
    """The tokenizer of an encoder-decoder: sources to ids, ids to text. None where the checkpoint has none.

    Args:
        checkpoint: opened.

    Raises:
        CheckpointError: the tokenizer can be run neither by the tokenizers library nor by a conversion.
    """
    tokenizer = _load(checkpoint)
    if tokenizer is None:
        return None
    if isinstance(tokenizer, ByT5Tokenizer) or is_sentencepiece(tokenizer):
        sentencepiece = is_sentencepiece(tokenizer)
        converted = convert(tokenizer, checkpoint) if sentencepiece else convert_byt5(tokenizer)
        extra = {} if converted.pieces is None else {PIECES_FILE: converted.pieces}
        around = len(tokenizer.build_inputs_with_special_tokens([]))
        found = replace(
            _facts(tokenizer, converted.serialized, around), decoding=converted.decoding, extra_files=extra
        )
    else:
        facts = read_tokenizer(checkpoint, lower_case=False)
        assert facts is not None
        found = replace(facts, decoding=describe_decoding(tokenizer))
    return replace(found, languages=describe_languages(tokenizer))


def _load(checkpoint: Checkpoint) -> Any:
    """The tokenizer of transformers, None where the checkpoint has none."""
    if not any((checkpoint.path / name).is_file() for name in _FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:  # converters raise what they like
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
    """A token that says "nothing": the beginning, else the end, else padding."""
    for name in ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "pad_token_id"):
        found = getattr(tokenizer, name, None)
        if found is not None:
            return int(found)
    return 0
