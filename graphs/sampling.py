"""The graphs that turn logits into tokens: ``token_biases`` and ``sample.*``, and the state that they keep.

State has a row for each of ``max_num_seqs``. A request has one row, or one for each of its beams or samples.
``decode`` reads the state, ``sample`` writes it, so that steps can follow each other without the host.
"""

from __future__ import annotations

from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import (
    NUM_SEQS,
    SELF_LENGTH,
    SOURCE_LENGTH,
    GenerateLimits,
)
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
MAX_NGRAM = 1 << 10
EOS_TOKENS = 4
"""How many end tokens a request may have; the lists in the state are padded with -1."""

RUNNING, AT_EOS, AT_LENGTH, INVALID = 0, 1, 2, 3
"""Values of ``finished``. ``INVALID``: the scores hold NaN, or forbid every token."""

EARLY_STOPPING = {False: 0, True: 1, "never": 2}
"""How ``early_stopping`` is written in the state."""

NO_SCORE = -1.0e9
"""What Hugging Face's beam search gives to a beam or hypothesis that is none yet."""


def state_buffers(limits: GenerateLimits) -> dict[str, Buffer]:
    """Everything that is known of the rows, by name.

    Of every row: ``tokens`` the last one, ``positions`` where it stands, ``history`` all tokens by position
    (a prefix that is still to be consumed lies ahead of the position), ``logprobs`` what each of them had
    among the processed scores; ``kv_slots`` and ``cross_*`` as ``decode`` reads them; ``source_ids``.
    ``finished`` says whether and why a row has ended. The others are the request's parameters under the
    names that Hugging Face gives them, in the plural.

    Of beams: ``beam_scores`` the running sums, and ``hypothesis_*`` the finished ones, best first, as
    many as there are beams; ``improvable`` until no running beam can beat them.
    """
    rows, length, source = limits.max_num_seqs, limits.max_target_length, limits.max_source_length
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "int32": {
            "tokens": (rows,),
            "positions": (rows,),
            "finished": (rows,),
            "history": (rows, length),
            "kv_slots": (rows, length),
            "cross_slots": (rows, source),
            "cross_lengths": (rows,),
            "source_ids": (rows, source),
            "prefix_lengths": (rows,),
            "max_lengths": (rows,),
            "eos_token_ids": (rows, EOS_TOKENS),
            "as_logprobs": (rows,),
            "no_repeat_ngram_sizes": (rows,),
            "encoder_no_repeat_ngram_sizes": (rows,),
            "forced_bos_token_ids": (rows,),
            "forced_eos_token_ids": (rows, EOS_TOKENS),
            "top_ks": (rows,),
            "early_stoppings": (rows,),
            "renormalize_logits": (rows,),
            "hypotheses": (rows, length),
            "hypothesis_lengths": (rows,),
            "hypothesis_done": (rows,),
            "improvable": (rows,),
        },
        "int64": {"seeds": (rows,)},
        "float32": {
            "logprobs": (rows, length),
            "repetition_penalties": (rows,),
            "encoder_repetition_penalties": (rows,),
            "temperatures": (rows,),
            "top_ps": (rows,),
            "min_ps": (rows,),
            "typical_ps": (rows,),
            "length_penalties": (rows,),
            "beam_scores": (rows,),
            "hypothesis_scores": (rows,),
            "hypothesis_logprobs": (rows, length),
        },
    }
    return {
        name: Buffer(name, dtype, shape, "state")
        for dtype, named in shapes.items()
        for name, shape in named.items()
    }


def logits_processors_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """Logits to scores, by the token_biases of each row, in the order of Hugging Face's logits processors.

    A table of entries covers every bias that names tokens: entry ``k`` adds ``bias_values[k]`` to the score
    of ``bias_tokens[k]`` in row ``bias_rows[k]`` of the logits, while the length of that row is from
    ``bias_firsts[k]`` to ``bias_lasts[k]`` and its last ``bias_prefix_lengths[k]`` tokens are those at the
    front of ``bias_prefixes[k]``; before forced tokens, or where ``bias_afters[k]`` is set after them. A
    spare entry has a ``bias_lasts`` of 0. The sizes of ``self_span`` (from 0), ``cross_span`` (from 0) and
    ``ngram_span`` (from 1) say how far to look into histories, sources and n-grams.
    """
    state = state_buffers(limits)
    entries = [
        *(Buffer(f"bias_{name}", "int32", (TOKEN_BIASES,)) for name in ("rows", "tokens", "firsts", "lasts")),
        *(Buffer(f"bias_{name}", "int32", (TOKEN_BIASES,)) for name in ("afters", "prefix_lengths")),
        Buffer("bias_prefixes", "int32", (TOKEN_BIASES, BIAS_PREFIX)),
        Buffer("bias_values", "float32", (TOKEN_BIASES,)),
    ]
    named = (
        "positions", "history", "source_ids", "cross_lengths", "max_lengths", "as_logprobs",
        "repetition_penalties", "encoder_repetition_penalties", "no_repeat_ngram_sizes",
        "encoder_no_repeat_ngram_sizes", "forced_bos_token_ids", "forced_eos_token_ids",
    )  # fmt: skip
    return Signature(
        graph=GraphName.LOGITS_PROCESSORS,
        axes=(
            _rows(limits),
            Axis(TOKEN_BIASES, 2, MAX_TOKEN_BIASES * limits.max_num_seqs),
            Axis(BIAS_PREFIX, 2, max(2, limits.max_target_length)),
            _self_length(limits),
            Axis(SOURCE_LENGTH, 2, max(2, limits.max_source_length)),
            Axis(NGRAM, 2, MAX_NGRAM),
        ),
        inputs=(
            Buffer("seq_ids", "int32", (NUM_SEQS,)),
            Buffer("logits", "float32", (NUM_SEQS, vocab_size)),
            *(state[name] for name in named),
            *entries,
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
            Buffer("cross_span", "int32", (SOURCE_LENGTH,), "span"),
            Buffer("ngram_span", "int32", (NGRAM,), "span"),
        ),
        outputs=(Buffer("scores", "float32", (NUM_SEQS, vocab_size)),),
        written=(),
    )


_ADVANCED = ("tokens", "positions", "history", "finished", "logprobs")
_READ = ("prefix_lengths", "max_lengths", "eos_token_ids")


def greedy_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """The best token of each chosen row.

    ``chosen`` are rows of the state, ``at`` the rows of ``scores`` that belong to them. A spare one repeats
    another. Gives the tokens.
    """
    return _one_token(GraphName.SAMPLE_GREEDY, limits, vocab_size, ())


def sample_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """A drawn token for each chosen row, by its own seed.

    The size of ``candidate_span`` says how many of the best tokens are looked at; it must be above every
    row's ``top_k``, or the vocabulary's where one has none.
    """
    named = ("temperatures", "top_ks", "top_ps", "min_ps", "typical_ps", "seeds")
    return _one_token(GraphName.SAMPLE_MULTINOMIAL, limits, vocab_size, named)


def beam_signature(limits: GenerateLimits, vocab_size: int) -> Signature:
    """One step of beam search for groups of rows, all with the same number of beams.

    ``chosen`` ``[groups, beams]`` are rows of the state, ``at`` those of ``scores``. Gives the parents: which
    beam of its group each one continues.
    """
    state = state_buffers(limits)
    written = (
        *_ADVANCED, "kv_slots", "beam_scores", "hypotheses", "hypothesis_logprobs", "hypothesis_lengths",
        "hypothesis_scores", "hypothesis_done", "improvable",
    )  # fmt: skip
    named = (*written, *_READ, "length_penalties", "early_stoppings", "renormalize_logits")
    return Signature(
        graph=GraphName.SAMPLE_BEAM,
        axes=(
            Axis(GROUPS, 2, max(2, limits.max_num_seqs)),
            Axis(BEAMS, 2, MAX_BEAMS),
            _rows(limits),
            _self_length(limits),
        ),
        inputs=(
            Buffer("seq_ids", "int32", (GROUPS, BEAMS)),
            Buffer("logits_indices", "int32", (GROUPS, BEAMS)),
            Buffer("scores", "float32", (NUM_SEQS, vocab_size)),
            *(state[name] for name in named),
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
        ),
        outputs=(Buffer("parents", "int32", (GROUPS, BEAMS)),),
        written=written,
    )


def _one_token(
    graph: GraphName, limits: GenerateLimits, vocab_size: int, parameters: tuple[str, ...]
) -> Signature:
    state = state_buffers(limits)
    sampled = bool(parameters)
    axes = [Axis(SAMPLED, 2, max(2, limits.max_num_seqs)), _rows(limits)]
    if sampled:
        axes.append(Axis(CANDIDATES, 2, vocab_size))
    return Signature(
        graph=graph,
        axes=tuple(axes),
        inputs=(
            Buffer("seq_ids", "int32", (SAMPLED,)),
            Buffer("logits_indices", "int32", (SAMPLED,)),
            Buffer("scores", "float32", (NUM_SEQS, vocab_size)),
            *(state[name] for name in (*_ADVANCED, *_READ, *parameters)),
            *((Buffer("candidate_span", "int32", (CANDIDATES,), "span"),) if sampled else ()),
        ),
        outputs=(Buffer("token_ids", "int32", (SAMPLED,)),),
        written=_ADVANCED,
    )


def _rows(limits: GenerateLimits) -> Axis:
    return Axis(NUM_SEQS, 2, max(2, limits.max_num_seqs))


def _self_length(limits: GenerateLimits) -> Axis:
    return Axis(SELF_LENGTH, 2, max(2, limits.max_target_length))
