"""Token biases: parameters that name tokens, as a list for each request and as the graph's table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precast.graphs.sampling import MAX_TOKEN_BIASES
from precast.runtime.errors import OptionError
from precast.runtime.generation.validation import Ids

_FORCING = ("forced_bos_token_id", "forced_eos_token_id")


@dataclass(frozen=True)
class TokenBias:
    """Adds ``value`` to the score of ``token`` if the sequence's last tokens are ``prefix``.

    As in Hugging Face, the start token is never part of a match.

    Attributes:
        token: The token.
        value: Number to add; minus infinity forbids the token.
        prefix: Tokens that must precede it; empty for any.
        first: Smallest length of the sequence, start token and prefix included, at which the bias acts.
        last: Largest length at which it acts.
        after: Whether it acts after tokens are forced (suppressed tokens) or before (biases, bad words,
            lengths).
    """

    token: int
    value: float
    prefix: Ids = ()
    first: int = 1
    last: int = (1 << 31) - 1
    after: bool = False


def make_token_biases(values: Mapping[str, Any], written: int, max_length: int) -> tuple[TokenBias, ...]:
    """Return every bias of a request that can act between its first and its last step.

    Args:
        values: Checked values of all parameters.
        written: Tokens of the prefix, start token included.
        max_length: Most tokens of the target.

    Raises:
        OptionError: Every forced token is suppressed, or there are more biases than the table holds.
    """
    biases = (
        *_sequence_biases(values),
        *_bad_words(values),
        *_min_lengths(values, written, max_length),
        *_suppressed(values, written),
    )
    acting = tuple(
        bias
        for bias in biases
        # A bias can match only in sequences longer than its prefix.
        if bias.last >= written and bias.first < max_length and len(bias.prefix) < max_length - 1
    )
    if len(acting) > MAX_TOKEN_BIASES:
        raise OptionError(
            f"the lists of tokens make {len(acting)} token biases, expected at most {MAX_TOKEN_BIASES} per "
            f"sequence; pass shorter lists"
        )
    return acting


def token_bias_table(entries: Sequence[tuple[int, TokenBias]]) -> dict[str, Tensor]:
    """Return the buffers ``graphs.sampling.TOKEN_BIAS_BUFFERS``.

    Args:
        entries: Pairs of a row of the logits and a bias of that row.
    """
    # Spare entries, which have a last length of 0, fill the table up to the minimum of its axes.
    count = max(2, len(entries))
    width = max([2, *(len(bias.prefix) for _, bias in entries)])
    names = ("logits_indices", "tokens", "firsts", "lasts", "afters", "prefix_lengths")
    numbers = np.zeros((len(names), count), np.int32)
    prefixes = np.zeros((count, width), np.int32)
    values = np.zeros(count, np.float32)
    for index, (row, bias) in enumerate(entries):
        numbers[:, index] = (row, bias.token, bias.first, bias.last, bias.after, len(bias.prefix))
        prefixes[index, : len(bias.prefix)] = bias.prefix
        values[index] = bias.value
    table = {f"bias_{name}": torch.from_numpy(numbers[at].copy()) for at, name in enumerate(names)}
    return table | {"bias_prefixes": torch.from_numpy(prefixes), "bias_values": torch.from_numpy(values)}


def _sequence_biases(values: Mapping[str, Any]) -> Iterator[TokenBias]:
    for sequence, value in values["sequence_bias"]:
        yield TokenBias(sequence[-1], value, prefix=sequence[:-1])


def _bad_words(values: Mapping[str, Any]) -> Iterator[TokenBias]:
    for sequence in values["bad_words_ids"]:
        # Hugging Face never forbids a sequence to end.
        if not (len(sequence) == 1 and sequence[0] in values["eos_token_id"]):
            yield TokenBias(sequence[-1], -math.inf, prefix=sequence[:-1])


def _min_lengths(values: Mapping[str, Any], written: int, max_length: int) -> Iterator[TokenBias]:
    least, new = values["min_length"], values["min_new_tokens"]
    if new is not None:
        least = written + new
    for token in values["eos_token_id"]:
        yield TokenBias(token, -math.inf, last=min(least - 1, max_length))


def _suppressed(values: Mapping[str, Any], written: int) -> Iterator[TokenBias]:
    everywhere, bos = values["suppress_tokens"], values["forced_bos_token_id"]
    for name, tokens in zip(_FORCING, (() if bos is None else (bos,), values[_FORCING[1]]), strict=True):
        if tokens and set(tokens) <= set(everywhere):
            raise OptionError(
                f"every token of {name} {list(tokens)} is in suppress_tokens too, so none is left; remove it "
                f"from one of them"
            )
    for token in everywhere:
        yield TokenBias(token, -math.inf, after=True)
    # The first token that the model is free to generate.
    begin = written + 1 if written == 1 and bos is not None else written
    for token in values["begin_suppress_tokens"]:
        yield TokenBias(token, -math.inf, first=begin, last=begin, after=True)
