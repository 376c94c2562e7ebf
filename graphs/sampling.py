"""The graphs that turn logits into tokens, ``logits_processors`` and ``sample.*``, and the state they share.

The state holds one line for each of ``max_num_seqs`` sequences. A request has one sequence, or one for each beam
or sample. ``decode`` reads the state and ``sample.*`` write it, so steps follow each other without the host.
"""

from __future__ import annotations

from precast.graphs.generation_parameters import PARAMS, params_of
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import NUM_SEQS, SELF_LENGTH, SOURCE_LENGTH, GenerateLimits
from precast.graphs.signature import Axis, Buffer, Signature

SAMPLED = "sampled_seqs"
GROUPS = "groups"
BEAMS = "beams"
CANDIDATES = "candidates"
TOKEN_BIASES = "token_biases"
BIAS_PREFIX = "bias_prefix"
NGRAM = "ngram"

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


def state_buffers(limits: GenerateLimits) -> dict[str, Buffer]:
    """Returns every buffer of the decoder state by name, one line per sequence.

    ``tokens`` is the last token, ``positions`` its position and ``history`` all tokens by position; a prefix that
    is still to be consumed lies ahead of the position. ``logprobs`` are the tokens' log-probabilities among the
    processed scores. ``kv_slots`` and ``cross_*`` are read by ``decode``, ``source_ids`` by processors.
    ``finished`` says whether and why a sequence has ended; ``as_logprobs`` is set for beams.

    Of beams, ``beam_scores`` are the running sums and ``hypothesis_*`` the finished sequences, best first, as
    many as there are beams; ``improvable`` is set until no running beam can beat them.

    The rest are the parameters of ``graphs.generation_parameters``, under their names.
    """
    num_seqs, length, source = limits.max_num_seqs, limits.max_target_length, limits.max_source_length
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
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
        Buffer(name, dtype, (num_seqs, *shape), "state")
        for dtype, named in shapes.items()
        for name, shape in named.items()
    ]
    parameters = [
        Buffer(param.name, param.dtype, (num_seqs, *param.shape), "state")
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
``bias_logits_indices[k]`` of the logits, while the length of that row's sequence is from ``bias_firsts[k]`` to
``bias_lasts[k]`` and its last ``bias_prefix_lengths[k]`` tokens are the first ones of ``bias_prefixes[k]``. It acts
before tokens are forced, or behind that if ``bias_afters[k]`` is set. Spare entries have a ``bias_lasts`` of 0."""


def logits_processors_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """Returns the signature of ``logits_processors``: logits to scores, in Hugging Face's order of processors.

    The sizes of ``self_span`` (from 0), ``cross_span`` (from 0) and ``ngram_span`` (from 1) say how far to read
    in histories, sources and n-grams.
    """
    return Signature(
        graph=GraphName.LOGITS_PROCESSORS,
        axes=(
            _num_seqs(limits),
            Axis(TOKEN_BIASES, 2, MAX_TOKEN_BIASES * limits.max_num_seqs),
            Axis(BIAS_PREFIX, 2, max(2, limits.max_target_length)),
            _self_length(limits),
            Axis(SOURCE_LENGTH, 2, max(2, limits.max_source_length)),
            Axis(NGRAM, 2, MAX_NGRAM),
        ),
        inputs=(
            Buffer("seq_ids", "int32", (NUM_SEQS,)),
            Buffer("logits", "float32", (NUM_SEQS, vocab_size)),
            *_state(limits, GraphName.LOGITS_PROCESSORS, _PROCESSOR_STATE),
            *TOKEN_BIAS_BUFFERS,
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
            Buffer("cross_span", "int32", (SOURCE_LENGTH,), "span"),
            Buffer("ngram_span", "int32", (NGRAM,), "span"),
        ),
        outputs=(Buffer("scores", "float32", (NUM_SEQS, vocab_size)),),
        written=(),
    )


def greedy_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """Returns the signature of ``sample.greedy``: the best token of each sequence in ``seq_ids``.

    ``logits_indices`` are their rows of ``scores``. Spare entries repeat another one.
    """
    return _one_token(GraphName.SAMPLE_GREEDY, limits, vocab_size)


def multinomial_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """Returns the signature of ``sample.multinomial``: a random token for each sequence, by its own seed.

    The size of ``candidate_span`` says among how many of the best tokens to sample; it must be above every
    sequence's ``top_k``, or the size of the vocabulary if one has none.
    """
    return _one_token(
        GraphName.SAMPLE_MULTINOMIAL,
        limits,
        vocab_size,
        (Axis(CANDIDATES, 2, vocab_size),),
        (Buffer("candidate_span", "int32", (CANDIDATES,), "span"),),
    )


def beam_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """Returns the signature of ``sample.beam``: a step of beam search for groups of equally many beams.

    ``seq_ids`` and ``logits_indices`` are ``[groups, beams]``. The output is the parent of each beam: which beam of
    its group it continues.
    """
    return Signature(
        graph=GraphName.SAMPLE_BEAM,
        axes=(
            Axis(GROUPS, 2, max(2, limits.max_num_seqs)),
            Axis(BEAMS, 2, MAX_BEAMS),
            _num_seqs(limits),
            _self_length(limits),
        ),
        inputs=(
            Buffer("seq_ids", "int32", (GROUPS, BEAMS)),
            Buffer("logits_indices", "int32", (GROUPS, BEAMS)),
            Buffer("scores", "float32", (NUM_SEQS, vocab_size)),
            *_state(limits, GraphName.SAMPLE_BEAM, (*SEQUENCE_STATE, *_HYPOTHESES)),
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
        ),
        outputs=(Buffer("parents", "int32", (GROUPS, BEAMS)),),
        written=(*_ADVANCED, *_HYPOTHESES),
    )


def _one_token(
    graph: GraphName,
    limits: GenerateLimits,
    vocab_size: int,
    axes: tuple[Axis, ...] = (),
    inputs: tuple[Buffer, ...] = (),
) -> Signature:
    return Signature(
        graph=graph,
        axes=(Axis(SAMPLED, 2, max(2, limits.max_num_seqs)), _num_seqs(limits), *axes),
        inputs=(
            Buffer("seq_ids", "int32", (SAMPLED,)),
            Buffer("logits_indices", "int32", (SAMPLED,)),
            Buffer("scores", "float32", (NUM_SEQS, vocab_size)),
            *_state(limits, graph, SEQUENCE_STATE),
            *inputs,
        ),
        outputs=(Buffer("token_ids", "int32", (SAMPLED,)),),
        written=_ADVANCED,
    )


def _state(limits: GenerateLimits, graph: GraphName, named: tuple[str, ...]) -> list[Buffer]:
    """The named state buffers and those of the graph's own parameters."""
    state = state_buffers(limits)
    return [state[name] for name in (*named, *(param.name for param in params_of(graph)))]


def _num_seqs(limits: GenerateLimits) -> Axis:
    return Axis(NUM_SEQS, 2, max(2, limits.max_num_seqs))


def _self_length(limits: GenerateLimits) -> Axis:
    return Axis(SELF_LENGTH, 2, max(2, limits.max_target_length))
