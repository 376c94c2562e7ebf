"""The checkpoint's tokenizer as one ``tokenizer.json`` that needs no transformers to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import normalizers
from transformers import AutoTokenizer

from precast.compiler.checkpoint import Checkpoint
from precast.compiler.errors import CheckpointError

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model",
          "sentencepiece.bpe.model", "tokenizer.model")  # fmt: skip
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
    if not any((checkpoint.path / name).is_file() for name in _FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:  # converters raise what they like
        raise CheckpointError(f"transformers cannot load the tokenizer: {error}") from error
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
    limit = tokenizer.model_max_length
    return TokenizerFacts(
        serialized=backend.to_str(),
        gives_token_types="token_type_ids" in tokenizer.model_input_names,
        truncation_side="left" if tokenizer.truncation_side == "left" else "right",
        max_length=int(limit) if limit and limit < _UNLIMITED else None,
        special_ids=tuple(sorted(tokenizer.all_special_ids)),
        added_tokens=backend.num_special_tokens_to_add(False),
        empty_id=_empty_id(tokenizer),
    )


def _empty_id(tokenizer: Any) -> int:
    """A token that says "nothing": the beginning, else the end, else padding."""
    for name in ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "pad_token_id"):
        found = getattr(tokenizer, name, None)
        if found is not None:
            return int(found)
    return 0
