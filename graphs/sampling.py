"""The graphs that turn logits into tokens, ``logits_processors`` and ``sample.*``, and the state they share.

The state holds one line for each of ``max_num_seqs`` sequences. A request has one sequence, or one for each
beam or sample. ``decode`` reads the state and ``sample.*`` write it, so steps follow each other without the
host.

These graphs have no weights, and every size in them is an axis: their signatures are constants, and all
models share the compiled graphs. The runtime passes state and logits of the artifact's own sizes.
"""

from __future__ import annotations

from precast.graphs.encode import MAX_BATCH, MAX_TOKENS
from precast.graphs.errors import LimitsError
from precast.graphs.generation_parameters import EOS_TOKENS, PARAMS, params_of
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import (
    MAX_NUM_SEQS,
    MAX_SOURCE_LENGTH,
    MAX_TARGET_LENGTH,
    NUM_SEQS,
    SELF_LENGTH,
    SOURCE_LENGTH,
)
from precast.graphs.signature import Axis, Buffer, Signature

SAMPLED = "sampled_seqs"
GROUPS = "groups"
BEAMS = "beams"
CANDIDATES = "candidates"
TOKEN_BIASES = "token_biases"
BIAS_PREFIX = "bias_prefix"
NGRAM = "ngram"
VOCAB = "vocab_size"

MIN_VOCAB, MAX_VOCAB = 1 + EOS_TOKENS, 1 << 20
"""Limits of the decoder's vocabulary. A beam needs one continuation besides all end tokens."""
MAX_BEAMS = 64
MAX_TOKEN_BIASES = 1 << 14
"""Most token biases of one sequence."""
MAX_NGRAM = 1 << 10

RUNNING, AT_EOS, AT_LENGTH, INVALID = 0, 1, 2, 3
"""Values of ``finished``. ``INVALID``: the scores hold NaN, or forbid every token."""

NO_SCORE = -1.0e9
"""Hugging Face's score of a beam or hypothesis that does not exist yet."""

_ADVANCED = ("tokens", "positions", "history", "finished", "logprobs")
SEQUENCE_STATE = (*_ADVANCED, "prefix_lengths", "max_length", "eos_token_id")
"""State buffers of every ``sample`` graph; it writes the first five."""

_HYPOTHESES = (
    "kv_slots", "beam_scores", "hypotheses", "hypothesis_logprobs", "hypothesis_lengths", "hypothesis_scores",
    "hypothesis_done", "improvable",
)  # fmt: skip
_PROCESSOR_STATE = (
    "positions", "history", "source_ids", "cross_lengths", "max_length", "as_logprobs",
)  # fmt: skip


def state_buffers() -> dict[str, Buffer]:
    """Return every buffer of the decoder state by name, one line per sequence.

    ``tokens`` is the last token, ``positions`` its position and ``history`` all tokens by position; a prefix
    that is still to be consumed lies ahead of the position. ``logprobs`` are the tokens' log-probabilities
    among the processed scores. ``kv_slots`` and ``cross_*`` are read by ``decode``, ``source_ids`` by
    processors. ``finished`` says whether and why a sequence has ended; ``as_logprobs`` is set for beams.

    Of beams, ``beam_scores`` are the running sums and ``hypothesis_*`` the finished sequences, best first, as
    many as there are beams; ``improvable`` is set until no running beam can beat them.

    The rest are the parameters of ``graphs.generation_parameters``, under their names.
    """
    length, source = MAX_TARGET_LENGTH, MAX_SOURCE_LENGTH
    shapes: dict[str, dict[str, tuple[str, ...]]] = {
        "int32": {
            "tokens": (),
            "positions": (),
            "finished": (),
            "history": (length,),
            "kv_slots": (length,),
            "cross_slots": (source,),
            "cross_lengths": (),
            "source_ids": (source,),
            "prefix_lengths": (),
            "as_logprobs": (),
            "hypotheses": (length,),
            "hypothesis_lengths": (),
            "hypothesis_done": (),
            "improvable": (),
        },
        "float32": {
            "logprobs": (length,),
            "beam_scores": (),
            "hypothesis_scores": (),
            "hypothesis_logprobs": (length,),
        },
    }
    decoding = [
        Buffer(name, dtype, (MAX_NUM_SEQS, *shape), "state")
        for dtype, named in shapes.items()
        for name, shape in named.items()
    ]
    parameters = [
        Buffer(param.name, param.dtype, (MAX_NUM_SEQS, *param.shape), "state")
        for param in PARAMS
        if param.dtype is not None
    ]
    return {buffer.name: buffer for buffer in (*decoding, *parameters)}


TOKEN_BIAS_BUFFERS = (
    *(
        Buffer(f"bias_{name}", "int32", (TOKEN_BIASES,))
        for name in ("logits_indices", "tokens", "firsts", "lasts", "afters", "prefix_lengths")
    ),
    Buffer("bias_prefixes", "int32", (TOKEN_BIASES, BIAS_PREFIX)),
    Buffer("bias_values", "float32", (TOKEN_BIASES,)),
)
"""The table of token biases. Entry ``k`` adds ``bias_values[k]`` to the score of ``bias_tokens[k]`` in row
``bias_logits_indices[k]`` of the logits, while the length of that row's sequence is from ``bias_firsts[k]``
to ``bias_lasts[k]`` and its last ``bias_prefix_lengths[k]`` tokens are the first ones of
``bias_prefixes[k]``. It acts before tokens are forced, or behind that if ``bias_afters[k]`` is set. Spare
entries have a ``bias_lasts`` of 0."""


_STATE_AXES = (
    Axis(MAX_NUM_SEQS, 2, MAX_BATCH),
    Axis(MAX_TARGET_LENGTH, 2, MAX_TOKENS),
    Axis(VOCAB, MIN_VOCAB, MAX_VOCAB),
)


def check_vocab_size(vocab_size: int) -> None:
    """Raises: LimitsError: The sampling graphs do not support a vocabulary of this size."""
    if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        raise LimitsError(
            f"the decoder's vocabulary must have {MIN_VOCAB} to {MAX_VOCAB} tokens, found {vocab_size}"
        )


def logits_processors_signature() -> Signature:
    """Return the signature of ``logits_processors``: logits to scores, in Hugging Face's order of
    processors.

    The sizes of ``self_span`` (from 0), ``cross_span`` (from 0) and ``ngram_span`` (from 1) say how far to
    read in histories, sources and n-grams.
    """
    return Signature(
        graph=GraphName.LOGITS_PROCESSORS,
        axes=(
            Axis(NUM_SEQS, 2, MAX_BATCH),
            Axis(TOKEN_BIASES, 2, MAX_TOKEN_BIASES * MAX_BATCH),
            Axis(BIAS_PREFIX, 2, MAX_TOKENS),
            Axis(SELF_LENGTH, 2, MAX_TOKENS),
            Axis(SOURCE_LENGTH, 2, MAX_TOKENS),
            Axis(NGRAM, 2, MAX_NGRAM),
            Axis(MAX_SOURCE_LENGTH, 2, MAX_TOKENS),
            *_STATE_AXES,
        ),
        inputs=(
            Buffer("seq_ids", "int32", (NUM_SEQS,)),
            Buffer("logits", "float32", (NUM_SEQS, VOCAB)),
            *_state(GraphName.LOGITS_PROCESSORS, _PROCESSOR_STATE),
            *TOKEN_BIAS_BUFFERS,
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
            Buffer("cross_span", "int32", (SOURCE_LENGTH,), "span"),
            Buffer("ngram_span", "int32", (NGRAM,), "span"),
        ),
        outputs=(Buffer("scores", "float32", (NUM_SEQS, VOCAB)),),
        written=(),
    )


def greedy_signature() -> Signature:
    """Return the signature of ``sample.greedy``: the best token of each sequence in ``seq_ids``.

    ``logits_indices`` are their rows of ``scores``. Spare entries repeat another one.
    """
    return _one_token(GraphName.SAMPLE_GREEDY)


def multinomial_signature() -> Signature:
    """Return the signature of ``sample.multinomial``: a random token for each sequence, by its own seed.

    The size of ``candidate_span`` says among how many of the best tokens to sample; it must be above every
    sequence's ``top_k``, or the size of the vocabulary if one has none.
    """
    return _one_token(
        GraphName.SAMPLE_MULTINOMIAL,
        (Axis(CANDIDATES, 2, MAX_VOCAB),),
        (Buffer("candidate_span", "int32", (CANDIDATES,), "span"),),
    )


def beam_signature() -> Signature:
    """Return the signature of ``sample.beam``: a step of beam search for groups of equally many beams.

    ``seq_ids`` and ``logits_indices`` are ``[groups, beams]``. The output is the parent of each beam: which
    beam of its group it continues.
    """
    return Signature(
        graph=GraphName.SAMPLE_BEAM,
        axes=(
            Axis(GROUPS, 2, MAX_BATCH),
            Axis(BEAMS, 2, MAX_BEAMS),
            Axis(NUM_SEQS, 2, MAX_BATCH),
            Axis(SELF_LENGTH, 2, MAX_TOKENS),
            *_STATE_AXES,
        ),
        inputs=(
            Buffer("seq_ids", "int32", (GROUPS, BEAMS)),
            Buffer("logits_indices", "int32", (GROUPS, BEAMS)),
            Buffer("scores", "float32", (NUM_SEQS, VOCAB)),
            *_state(GraphName.SAMPLE_BEAM, (*SEQUENCE_STATE, *_HYPOTHESES)),
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
        ),
        outputs=(Buffer("parents", "int32", (GROUPS, BEAMS)),),
        written=(*_ADVANCED, *_HYPOTHESES),
    )


def _one_token(graph: GraphName, axes: tuple[Axis, ...] = (), inputs: tuple[Buffer, ...] = ()) -> Signature:
    return Signature(
        graph=graph,
        axes=(Axis(SAMPLED, 2, MAX_BATCH), Axis(NUM_SEQS, 2, MAX_BATCH), *_STATE_AXES, *axes),
        inputs=(
            Buffer("seq_ids", "int32", (SAMPLED,)),
            Buffer("logits_indices", "int32", (SAMPLED,)),
            Buffer("scores", "float32", (NUM_SEQS, VOCAB)),
            *_state(graph, SEQUENCE_STATE),
            *inputs,
        ),
        outputs=(Buffer("token_ids", "int32", (SAMPLED,)),),
        written=_ADVANCED,
    )


def _state(graph: GraphName, named: tuple[str, ...]) -> list[Buffer]:
    """Return the named state buffers, and those of the parameters that belong to the graph."""
    state = state_buffers()
    return [state[name] for name in (*named, *(param.name for param in params_of(graph)))]
