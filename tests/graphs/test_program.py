"""Portable programs: round trip, execution, and refusal of invalid ones."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.errors import ProgramError
from precast.graphs.program import PYTHON_OPS, Call, Program
from precast.runtime.backends.reference import ProgramRunner, resolve_op

names = st.text(min_size=1, max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
special = st.sampled_from(
    [{"ref": "x"}, {"dtype": "float32"}, {"device": "cpu"}, {"layout": "strided"}, {"float": "-inf"},
     {"memory_format": "contiguous_format"}]
)  # fmt: skip
values = st.recursive(scalars | special, lambda inner: st.lists(inner, max_size=3), max_leaves=5).filter(
    lambda value: json.dumps(value).count("[[[[[") == 0
)
calls = st.builds(
    Call, names, names, st.lists(values, max_size=3), st.dictionaries(names, values, max_size=2)
)
programs = st.builds(
    Program,
    st.lists(names, max_size=3).map(tuple),
    st.dictionaries(names, names, max_size=3),
    st.lists(calls, max_size=4).map(tuple),
    st.lists(names, max_size=2).map(tuple),
)


@given(program=programs)
def test_program_round_trips_through_json(program: Program) -> None:
    text = program.to_json()
    assert Program.from_json(text) == program
    assert Program.from_json(text).to_json() == text


@given(
    text=st.text() | st.recursive(scalars, lambda x: st.lists(x) | st.dictionaries(names, x)).map(json.dumps)
)
def test_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ProgramError, match="not a portable program"):
        Program.from_json(text)


def test_infinity_must_be_encoded() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        program([("x", "aten.neg.default", [math.inf], {})]).to_json()


def ref(name: str) -> dict[str, str]:
    return {"ref": name}


def program(calls: list[tuple[str, str, list[Any], dict[str, Any]]], /, **changes: Any) -> Program:
    defaults: dict[str, Any] = {
        "inputs": ("x",),
        "weights": {"w": "layer.weight"},
        "calls": tuple(Call(*call) for call in calls),
        "outputs": (calls[-1][0],) if calls else ("x",),
    }
    return Program(**{**defaults, **changes})


def run(made: Program, x: torch.Tensor) -> list[torch.Tensor]:
    return ProgramRunner(made, {"layer.weight": torch.eye(3) * 2})({"x": x})


def test_calls_run_in_order_on_inputs_and_weights() -> None:
    made = program(
        [
            ("n", "aten.sym_size.int", [ref("x"), 0], {}),
            ("m", "python.add", [ref("n"), 1], {}),
            ("y", "aten.linear.default", [ref("x"), ref("w")], {}),
            (
                "z",
                "aten.zeros.default",
                [[ref("m"), 3]],
                {"dtype": {"dtype": "float32"}, "device": {"device": "cpu"}},
            ),
            ("parts", "aten.split_with_sizes.default", [ref("z"), [1, ref("n")]], {}),
            ("part", "python.getitem", [ref("parts"), 1], {}),
            ("low", "aten.clamp.default", [ref("y"), {"float": "-inf"}, 3.0], {}),
            ("sum", "aten.add.Tensor", [ref("low"), ref("part")], {}),
        ]
    )
    x = torch.tensor([[1.0, 2.0, -3.0], [0.0, 1.0, 1.0]])
    for _ in range(2):  # values freed during one run do not affect the next one
        (found,) = run(Program.from_json(made.to_json()), x)
        assert torch.equal(found, (2 * x).clamp(max=3.0))


def test_an_input_may_be_an_output_and_a_result_may_go_unused() -> None:
    made = program([("unused", "aten.relu.default", [ref("x")], {})], outputs=("x", "w"))
    x = torch.ones(1, 3)
    found, weight = run(made, x)
    assert found is x and torch.equal(weight, torch.eye(3) * 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outputs": ("gone",)}, "does not compute its outputs.*gone"),
        ({"inputs": ("x", "x")}, "twice"),
        ({"inputs": ("x", "w")}, "twice"),
        ({"weights": {"w": "other"}}, "needs weights that the weights file lacks.*other"),
        ({"calls": (Call("y", "aten.relu.default", [ref("z")], {}),)}, "'y' uses.*z.*before"),
        ({"calls": (Call("y", "aten.relu.default", [], {"self": [ref("y")]}),)}, "'y' uses.*y.*before"),
        ({"calls": (Call("x", "aten.relu.default", [ref("x")], {}),)}, "'x' defines.*already"),
        ({"calls": (Call("y", "aten.relu_.default", [ref("x")], {}),)}, r"aten\.relu_\.default"),
        ({"calls": (Call("y", "aten.relu.default", [{"complex": "1j"}], {}),)}, "unknown kind: 'complex'"),
        ({"calls": (Call("y", "aten.relu.default", [{"dtype": "nn"}], {}),)}, "'nn'"),
    ],
)
def test_invalid_programs_are_rejected(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ProgramError, match=says):
        run(program([("y", "aten.relu.default", [ref("x")], {})], **changes), torch.ones(3))


def test_keyword_named_ref_is_not_a_reference() -> None:
    made = program([("y", "aten.relu.default", [], {"ref": "nowhere"})])
    with pytest.raises(RuntimeError, match="aten::relu"):
        run(made, torch.ones(3))


def test_looking_up_a_dtype_imports_nothing() -> None:
    """getattr on torch imports some of its submodules."""
    import sys

    for name in ("_inductor", "onnx", "_export"):
        before = set(sys.modules)
        with pytest.raises(ProgramError, match=name):
            run(program([("y", "aten.relu.default", [{"dtype": name}], {})]), torch.ones(3))
        assert set(sys.modules) == before


def test_operators() -> None:
    assert resolve_op("aten.linear.default") is torch.ops.aten.linear.default
    assert resolve_op("aten.__and__.Tensor") is torch.ops.aten.__and__.Tensor
    for name, function in PYTHON_OPS.items():
        assert resolve_op(f"python.{name}") is function
    for name in ("aten.save.default", "aten.from_file.default", "aten.copy_.default", "aten._to_copy.default",
                 "aten.item.default", "aten.__class__.mro", "python.exec", "aten", "", "."):  # fmt: skip
        with pytest.raises(ProgramError, match="is not one that a program may call"):
            resolve_op(name)


def test_inputs_are_written_after_the_last_call() -> None:
    calls = (
        Call("first", "aten.add.Scalar", [{"ref": "x"}, 1], {}),
        Call("sum", "aten.add.Tensor", [{"ref": "x"}, {"ref": "first"}], {}),
    )
    written = Program(("x",), {}, calls, ("sum",), {"x": "first"})
    again = Program.from_json(written.to_json())
    assert again == written
    x = torch.tensor([1.0, 2.0])
    (found,) = ProgramRunner(again, {})({"x": x})
    assert found.tolist() == [3.0, 5.0] and x.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("writes", [{"y": "first"}, {"x": "gone"}])
def test_only_inputs_are_written_and_only_with_defined_values(writes: dict[str, str]) -> None:
    calls = (Call("first", "aten.add.Scalar", [{"ref": "x"}, 1], {}),)
    with pytest.raises(ProgramError, match="writes inputs or values that it does not define"):
        ProgramRunner(Program(("x",), {}, calls, ("first",), writes), {})


@pytest.mark.parametrize("kind", ["dtype", "layout"])
def test_a_number_is_rejected_as_dtype(kind: str) -> None:
    """torch accepts a number for a dtype, and -1 ends the process."""
    calls = (Call("zeros", "aten.zeros.default", [[]], {kind: -1}),)
    with pytest.raises(ProgramError, match=f"'zeros' passes -1 as {kind}"):
        ProgramRunner(Program((), {}, calls, ("zeros",)), {})
