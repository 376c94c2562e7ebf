"""The table of generation parameters, and what is derived from it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from precast.artifacts.generation_defaults import GenerationDefaults
from precast.graphs.generation_parameters import PARAMS, SCALARS, Param, params_of
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import (
    beam_signature,
    greedy_signature,
    logits_processors_signature,
    multinomial_signature,
    state_buffers,
)
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.generation.sampling_params import SUPPORTED, resolve
from precast.tools.cli.generate import generate_command
from precast.tools.parameter_table import with_parameter_table

LIMITS = GenerateLimits(8, 12, 16, 4, 6)
SPEC = Path(inspect.getfile(GenerationDefaults)).with_name("SPEC.md")


def test_names_are_unique_and_neutral_values_pass_their_check() -> None:
    assert len({param.name for param in PARAMS}) == len(PARAMS)
    for param in PARAMS:
        if param.check is not None and param.neutral not in (None, ()):
            assert param.check.holds(param.neutral), param.name
        if param.graph is not None:
            assert param.dtype is not None, f"{param.name} belongs to a graph but has no state buffer"


def test_a_state_buffer_has_the_name_dtype_and_shape_of_its_parameter() -> None:
    buffers = state_buffers()
    for param in PARAMS:
        if param.dtype is None:
            assert param.name not in buffers
        else:
            buffer = buffers[param.name]
            assert (buffer.dtype, buffer.shape[1:], buffer.role) == (param.dtype, param.shape, "state")


def test_graphs_read_their_own_parameters_and_no_others() -> None:
    signatures = (
        logits_processors_signature(),
        greedy_signature(),
        multinomial_signature(),
        beam_signature(),
    )
    for signature in signatures:
        names = {buffer.name for buffer in signature.inputs}
        own = {param.name for param in PARAMS if param.graph is not None} & names
        assert own == {param.name for param in params_of(signature.graph)}


def test_the_manifest_takes_every_parameter_of_a_checkpoint() -> None:
    fields = set(GenerationDefaults.model_fields) - {"max_position_embeddings"}
    assert fields == {param.name for param in PARAMS if param.in_checkpoint}
    assert set(SUPPORTED) == {param.name for param in PARAMS}


def test_the_command_line_has_an_option_for_every_scalar() -> None:
    options = inspect.signature(generate_command).parameters
    scalars = {param.name for param in PARAMS if param.kind in SCALARS}
    assert scalars <= set(options)
    assert not set(options) & {param.name for param in PARAMS if param.kind not in SCALARS}


def test_the_table_in_the_specification_is_up_to_date() -> None:
    text = SPEC.read_text("utf-8")
    assert text == with_parameter_table(text), "run python -m precast.tools.parameter_table"


@pytest.mark.parametrize("param", params_of(GraphName.LOGITS_PROCESSORS), ids=lambda param: param.name)
def test_any_value_but_the_neutral_one_makes_logits_pass_the_processors(param: Param) -> None:
    start = GenerationDefaults(decoder_start_token_id=0)
    values = {"integer": 2, "number": 1.5, "token": 3, "tokens": (3,)}
    plain = resolve(start, LIMITS, 20, {}, None)
    given = resolve(start, LIMITS, 20, {param.name: values[param.kind]}, None)
    assert given.needs_processing and not plain.needs_processing
