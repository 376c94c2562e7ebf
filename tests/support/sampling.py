"""The sampling graphs called directly, and Hugging Face's scores for the same logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import LogitsProcessorList

from precast.artifacts.generation_defaults import GenerationDefaults
from precast.compiler.lowering.reference import to_program
from precast.compiler.lowering.trace import trace
from precast.graphs.program import Program
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Signature
from precast.runtime.backends.reference import ProgramRunner
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.generation.state import DecoderState

Call = Callable[..., Any]


def portable(module: nn.Module, signature: Signature) -> Call:
    """Return ``module`` traced, written as a portable program and read back; called like the module."""
    names = [buffer.name for buffer in signature.inputs]
    program = Program.from_json(to_program(trace(module.eval(), signature), names).to_json())
    run = ProgramRunner(program, {})

    def call(buffers: Mapping[str, Tensor]) -> Tensor:
        return run(buffers)[0]

    return call


def buffers(signature: Signature, state: DecoderState, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of ``signature``, from the state and from ``given``."""
    known = {**state.tensors, **given}
    return {buffer.name: known[buffer.name] for buffer in signature.inputs}


def integers(values: Sequence[int] | range) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32)


def begin(state: DecoderState, rows: Sequence[int], plan: SamplingParams, source: Sequence[int]) -> None:
    """Write a request into the state as the engine does, with meaningless KV cache slots."""
    slots = np.zeros(plan.max_length, np.int32)
    state.begin(rows, plan, np.array(source, np.int32), [slots] * len(rows), np.zeros(len(source), np.int32))


def make_plan(
    limits: GenerateLimits, vocab: int, given: Mapping[str, Any], prefix: Sequence[int] | None = None
) -> SamplingParams:
    """Resolve arguments in Hugging Face's names; the checkpoint sets only the start token."""
    return resolve(GenerationDefaults(decoder_start_token_id=0), limits, vocab, given, prefix)


def hf_processors(
    model: PreTrainedModel, given: Mapping[str, Any], source: Sequence[int], written: int
) -> LogitsProcessorList:
    """Return the processors of ``generate`` in its order; rejects the example if it refuses the arguments.

    Args:
        model: Any model that generates.
        given: Arguments of the call.
        source: Token ids of the encoder.
        written: Tokens of the prefix, the start token included.
    """
    try:
        config = GenerationConfig(**given, decoder_start_token_id=0)
        model._prepare_special_tokens(config, True, device="cpu")
        tensor = torch.tensor([list(source)])
        model._prepare_generated_length(config, False, False, "input_ids", written, tensor)
        return model._get_logits_processor(config, written, tensor, device="cpu")
    except ValueError:
        reject()


def bias_values(vocab: int) -> dict[str, st.SearchStrategy[Any]]:
    """Return strategies for arguments that change scores; token 0 starts a target, 1 and 2 may end it."""
    token = st.integers(1, vocab - 1)
    # Histories consist of low tokens. In this form a bias cannot name token 0, while a bad word can.
    often = st.one_of(st.integers(1, 4), token)
    sequence = st.lists(often, min_size=1, max_size=3)
    word = st.lists(st.one_of(st.just(0), often), min_size=1, max_size=3)
    # Eighths add up without rounding, in any order.
    bias = st.one_of(st.integers(-24, 24).map(lambda eighths: eighths / 8), st.just(-float("inf")))
    return {
        "sequence_bias": st.lists(
            st.tuples(sequence, bias).map(list), min_size=1, max_size=4, unique_by=lambda pair: tuple(pair[0])
        ),
        "encoder_repetition_penalty": st.sampled_from([0.6, 1.4, 3.0]),
        "repetition_penalty": st.sampled_from([0.7, 1.2, 2.5]),
        "no_repeat_ngram_size": st.integers(1, 4),
        "encoder_no_repeat_ngram_size": st.integers(1, 4),
        "bad_words_ids": st.lists(word, min_size=1, max_size=4),
        "min_length": st.integers(1, 12),
        "min_new_tokens": st.integers(1, 9),
        "forced_bos_token_id": token,
        "forced_eos_token_id": st.one_of(token, st.lists(token, min_size=1, max_size=2, unique=True)),
        "suppress_tokens": st.lists(token, min_size=1, max_size=3, unique=True),
        "begin_suppress_tokens": st.lists(token, min_size=1, max_size=3, unique=True),
    }


def some_of(values: Mapping[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Sample up to ``most`` of the arguments."""
    names = st.lists(st.sampled_from(sorted(values)), max_size=most, unique=True) if values else st.just([])
    return names.flatmap(lambda some: st.fixed_dictionaries({name: values[name] for name in some}))
