"""From parameters that name tokens to the ``TokenBias``s that the graph applies."""

from __future__ import annotations

import math
from collections.abc import Iterator

from precast.graphs.sampling import MAX_TOKEN_BIASES
from precast.runtime.errors import OptionError
from precast.runtime.generation.sampling_params import TokenBias
from precast.runtime.generation.validation import Ids, Values, as_list, as_number, wrong

_BIAS = "a dictionary of token tuples and numbers, or a list of pairs of both, and not empty"


def make_token_biases(
    values: Values, eos_token_ids: Ids, written: int, max_length: int, forced: dict[str, Ids]
) -> tuple[TokenBias, ...]:
    """Every bias of a request that can act between its first and its last step.

    Args:
        values: of the call.
        eos_token_ids: what ends a row.
        written: length of the start token and prefix, in tokens.
        max_length: of a row, in tokens, all included.
        forced: tokens that rows must have somewhere, by the name of the parameter that says so.

    Raises:
        OptionError: a list is malformed or names tokens outside the vocabulary, every forced token is
            suppressed, or there are more token_biases than a table holds.
    """
    made = (
        *_biases(values),
        *_bad_words(values, eos_token_ids),
        *_least_lengths(values, eos_token_ids, written, max_length),
        *_suppressed(values, written, forced),
    )
    acting = tuple(
        bias
        for bias in made
        # A sequence acts once more tokens are written than stand before its last one.
        if bias.last >= written and bias.first < max_length and len(bias.prefix) < max_length - 1
    )
    if len(acting) > MAX_TOKEN_BIASES:
        raise OptionError(
            f"the lists of tokens make {len(acting)} token_biases, at most {MAX_TOKEN_BIASES} fit a row; give shorter "
            f"lists"
        )
    return acting


def _biases(values: Values) -> Iterator[TokenBias]:
    given = values.given.get("sequence_bias")
    if given is None:
        return
    pairs = list(given.items()) if isinstance(given, dict) else as_list("sequence_bias", given, _BIAS)
    if not pairs:
        raise wrong("sequence_bias", _BIAS, given)
    biases: dict[Ids, float] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise wrong("sequence_bias", _BIAS, given)
        # As in Hugging Face, the last of several biases of one sequence holds.
        biases[_sequence(values, "sequence_bias", pair[0])] = as_number("sequence_bias", pair[1], True)
    for sequence, value in biases.items():
        yield TokenBias(sequence[-1], value, prefix=sequence[:-1])


def _bad_words(values: Values, eos_token_ids: Ids) -> Iterator[TokenBias]:
    given = values.given.get("bad_words_ids")
    if given is None:
        return
    words = as_list("bad_words_ids", given, "a list of lists of token ids")
    if not words:
        raise wrong("bad_words_ids", "a list of lists of token ids, and not empty", given)
    sequences = dict.fromkeys(_sequence(values, "bad_words_ids", word) for word in words)
    for sequence in sequences:
        # Hugging Face lets rows end whatever the list says.
        if not (len(sequence) == 1 and sequence[0] in eos_token_ids):
            yield TokenBias(sequence[-1], -math.inf, prefix=sequence[:-1])


def _sequence(values: Values, name: str, given: object) -> Ids:
    sequence = values.ids(name, given)
    if not sequence:
        raise wrong(name, "made of sequences of at least one token", given)
    return sequence


def _least_lengths(values: Values, eos_token_ids: Ids, written: int, max_length: int) -> Iterator[TokenBias]:
    least = values.integer("min_length", 0) or 0
    least_new = values.integer("min_new_tokens", 0)
    if least_new is not None:
        least = written + least_new
    for token in eos_token_ids:
        yield TokenBias(token, -math.inf, last=min(least - 1, max_length))


def _suppressed(values: Values, written: int, forced: dict[str, Ids]) -> Iterator[TokenBias]:
    everywhere = values.tokens("suppress_tokens") or ()
    for name, tokens in forced.items():
        if tokens and set(tokens) <= set(everywhere):
            raise OptionError(
                f"every token of {name} {list(tokens)} is in suppress_tokens too, so that none is left; "
                f"remove it from one of them"
            )
    for token in everywhere:
        yield TokenBias(token, -math.inf, after=True)
    # The first token that the model chooses by itself.
    begin = written + 1 if written == 1 and forced["forced_bos_token_id"] else written
    for token in values.tokens("begin_suppress_tokens") or ():
        yield TokenBias(token, -math.inf, first=begin, last=begin, after=True)
