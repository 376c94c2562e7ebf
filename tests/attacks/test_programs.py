"""Portable programs that do more than compute tensors and sizes, or that are invalid."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import precast
from precast.graphs.errors import PrecastError, ProgramError
from precast.runtime.errors import GraphError
from tests.attacks.tampering import (
    GRAPH,
    Attack,
    Json,
    Tamper,
    assert_refused,
    assert_serves,
    content,
    copy_of,
    program,
    read,
    refusal,
    sign,
)
from tests.support.artifacts import TinyModels


def text(data: str | bytes) -> Attack:
    return Attack(
        content(GRAPH, data.encode() if isinstance(data, str) else data),
        ProgramError,
        "not a portable program",
    )


def calling(op: Json, args: Json = (), **kwargs: Json) -> Tamper:
    """Insert a first call, whose result is not used."""
    call = {"name": "evil", "op": op, "args": list(args), "kwargs": kwargs}
    return program(lambda data: data["calls"].insert(0, call))


def holding(value: Json) -> Tamper:
    """Insert a call with an argument that tracing never writes."""
    return calling("aten.relu.default", [value])


def as_result(op: str, args: Json) -> Tamper:
    """Append a call and return its result as the output."""
    call = {"name": "evil", "op": op, "args": args, "kwargs": {}}
    return program(lambda data: (data["calls"].append(call), data.update(outputs=["evil"])))


def last(**changes: Json) -> Tamper:
    return program(lambda data: data["calls"][-1].update(changes))


def nested(depth: int) -> Json:
    value: Json = []
    for _ in range(depth):
        value = [value]
    return value


def in_text(depth: int) -> Callable[[bytes], bytes]:
    """Nest arguments deeper than json.dumps can."""
    return lambda old: old.replace(b'"args":[', b'"args":[' + b"[" * depth + b"]" * depth + b",", 1)


IDS = {"ref": "input_ids"}
META = [{"ref": "div_1"}, {"device": "meta"}, {"dtype": "float32"}]

FORBIDDEN = {
    op: Attack(calling(op, args), ProgramError, "operator " + re.escape(repr(op)))
    for op, args in {
        "aten.save.default": [IDS, "stolen.pt"],  # TorchScript's own: it names a file
        "aten.from_file.default": ["/etc/passwd", False, 8],
        "aten.warn.default": ["hello"],
        "aten._print.default": ["hello"],
        "aten.manual_seed.default": [0],
        "aten.set_grad_enabled.default": [True],
        "aten.backward.default": [IDS],
        "aten.item.default": [IDS],
        "aten.add_.Tensor": [IDS, 1],
        "aten.zero_.default": [IDS],
        "aten.copy_.default": [IDS, IDS],
        "aten.index_put_.default": [IDS, [IDS], IDS],
        "aten.resize_.default": [IDS, [10**12]],
        "aten.set_.source_Tensor": [IDS, IDS],
        "aten.add.out": [IDS, IDS],
        "aten._unsafe_index.Tensor": [IDS, [IDS]],
        "aten._weight_int4pack_mm.default": [IDS, IDS, 32, IDS],
        "aten.linear": [IDS, IDS],
        "aten.linear.nothing": [IDS, IDS],
        "aten.no_such_operator.default": [],
        "aten.__class__.mro": [],
        "aten.__init__.__globals__": [],
        "aten.add.__class__": [],
        "aten..default": [],
        "aten": [],
        "": [],
        "prims.add.default": [IDS, IDS],
        "quantized.add.default": [],
        "profiler._record_function_enter.default": [],
        "torch.load": ["x"],
        "os.system": ["true"],
        "python.eval": ["1"],
        "python.__import__": ["os"],
        "python.": [],
        "aten.add.Tensor\n": [IDS, IDS],
        "aten.add.Tensor.Tensor": [IDS, IDS],
        "ａten.add.Tensor": [IDS, IDS],
    }.items()
} | {
    "a very long name": Attack(calling("aten." + "x" * 10**6), ProgramError, "'aten.xxx"),
}

BROKEN = {
    "empty": text(""),
    "not JSON": text("import os"),
    "a list": text("[]"),
    "null": text("null"),
    "not UTF-8": Attack(content(GRAPH, b"\x7fELF\xff\xfe"), ProgramError, "not UTF-8"),
    "an empty object": text("{}"),
    "nested 100,000 deep": text("[" * 100_000 + "]" * 100_000),
    "arguments nested 9 deep": Attack(holding(nested(9)), ProgramError, "nested more than"),
    "arguments nested 300 deep": Attack(content(GRAPH, in_text(300)), ProgramError, "nested|recursion"),
    "arguments nested 900 deep": Attack(content(GRAPH, in_text(900)), ProgramError, "nested|recursion"),
    "arguments nested 100,000 deep": Attack(content(GRAPH, in_text(100_000)), ProgramError, "recursion"),
    "a repeated key": text('{"inputs": [], "inputs": [], "weights": {}, "calls": [], "outputs": []}'),
    "NaN": text('{"inputs": [], "weights": {}, "calls": [NaN], "outputs": []}'),
    "an unknown key": Attack(program(lambda d: d.update(imports=["os"])), ProgramError, "imports"),
    "inputs as a text": Attack(program(lambda d: d.update(inputs="ids")), ProgramError, "inputs.*str"),
    "inputs as numbers": Attack(program(lambda d: d.update(inputs=[1])), ProgramError, "inputs.*int"),
    "outputs as a text": Attack(program(lambda d: d.update(outputs="x")), ProgramError, "outputs.*str"),
    "weights as a list": Attack(program(lambda d: d.update(weights=["x"])), ProgramError, "weights.*list"),
    "weights without names": Attack(
        program(lambda d: d["weights"].update(x=None)), ProgramError, "weights.*NoneType"
    ),
    "calls as an object": Attack(program(lambda d: d.update(calls={})), ProgramError, "calls.*dict"),
    "a call as a list": Attack(program(lambda d: d["calls"].append([])), ProgramError, "call.*list"),
    "a call with an unknown key": Attack(last(shell="true"), ProgramError, "shell"),
    "a call with a missing key": Attack(
        program(lambda d: d["calls"][0].pop("kwargs")), ProgramError, "kwargs"
    ),
    "a call without a name": Attack(last(name=None), ProgramError, "name.*NoneType"),
    "a name that is an object": Attack(last(name={}), ProgramError, "name.*dict"),
    "an operator that is a list": Attack(last(op=["aten"]), ProgramError, "operator.*list"),
    "arguments as a text": Attack(last(args="x"), ProgramError, "args.*str"),
    "arguments as an object": Attack(last(args={"a": 1}), ProgramError, "args.*dict"),
    "options as a list": Attack(last(kwargs=[1]), ProgramError, "kwargs.*list"),
}

NAMES = {
    "a name before it is defined": Attack(holding({"ref": "linear"}), ProgramError, "'evil' uses.*linear"),
    "its own name": Attack(holding({"ref": "evil"}), ProgramError, "'evil' uses.*evil"),
    "no name": Attack(holding({"ref": ""}), ProgramError, "uses"),
    "a name within a list": Attack(holding([1, [{"ref": "gone"}]]), ProgramError, "uses.*gone"),
    "a name in an option": Attack(
        calling("aten.relu.default", [], self={"ref": "gone"}), ProgramError, "uses.*gone"
    ),
    "a reference that is a number": Attack(holding({"ref": 1}), ProgramError, "'ref'.*1"),
    "a reference that is a list": Attack(holding({"ref": [1]}), ProgramError, "'ref'"),
    "a name twice": Attack(
        program(lambda d: d["calls"].append(copy.deepcopy(d["calls"][0]))), ProgramError, "defined already"
    ),
    "the name of an input": Attack(last(name="input_ids"), ProgramError, "input_ids.*defined already"),
    "the name of a weight": Attack(
        program(lambda d: d["calls"][-1].update(name=next(iter(d["weights"])))),
        ProgramError,
        "defined already",
    ),
    "an input twice": Attack(program(lambda d: d["inputs"].append("input_ids")), ProgramError, "twice"),
    "an input named as a weight": Attack(
        program(lambda d: d["weights"].update(input_ids=next(iter(d["weights"].values())))),
        ProgramError,
        "twice",
    ),
    "an unknown input": Attack(program(lambda d: d["inputs"].append("more")), ProgramError, "takes.*more"),
    "a missing input": Attack(program(lambda d: d["inputs"].remove("input_ids")), ProgramError, "input_ids"),
    "a missing result": Attack(program(lambda d: d.update(outputs=["gone"])), ProgramError, "gone"),
    "a weight missing from the file": Attack(
        program(lambda d: d["weights"].update(more="gone")), ProgramError, "gone"
    ),
}

VALUES = {
    "an unknown kind": Attack(holding({"object": "os"}), ProgramError, "unknown kind: 'object'"),
    "two kinds": Attack(holding({"ref": "input_ids", "float": "1"}), ProgramError, "cannot be read"),
    "no kind": Attack(holding({}), ProgramError, "cannot be read"),
    "an invalid float": Attack(holding({"float": "one"}), ProgramError, "cannot be read.*one"),
    "an invalid dtype": Attack(holding({"dtype": "float33"}), ProgramError, "float33"),
    "a function as a dtype": Attack(holding({"dtype": "load"}), ProgramError, "'load'"),
    "a module as a dtype": Attack(holding({"dtype": "_dynamo"}), ProgramError, "'_dynamo'"),
    "a layout as a dtype": Attack(holding({"dtype": "strided"}), ProgramError, "'strided'"),
    "a dtype as a layout": Attack(holding({"layout": "float32"}), ProgramError, "'float32'"),
    "a dtype that is a list": Attack(holding({"dtype": ["float32"]}), ProgramError, "expected a string"),
    "an invalid device": Attack(holding({"device": "toaster"}), ProgramError, "toaster"),
    "a device by number": Attack(holding({"device": 0}), ProgramError, "expected a string"),
}

FAILING = {
    "no arguments": Attack(calling("aten.relu.default"), GraphError, "first batch.*relu"),
    "arguments of another kind": Attack(holding("text"), GraphError, "first batch.*relu"),
    "an unknown option": Attack(calling("aten.relu.default", [IDS], x=1), GraphError, "first batch.*x"),
    "shapes that do not fit": Attack(calling("aten.mm.default", [IDS, IDS]), GraphError, "first batch"),
    "an index out of range": Attack(
        calling("aten.select.int", [IDS, 0, 10**9]), GraphError, "first batch.*index"
    ),
    "a division by zero": Attack(calling("python.floordiv", [1, 0]), GraphError, "first batch.*zero"),
    "an allocation of petabytes": Attack(
        calling("aten.zeros.default", [[10**17]], device={"device": "cpu"}), GraphError, "first batch.*memory"
    ),
    "a result of another shape": Attack(
        program(lambda d: d.update(outputs=["input_ids"])), GraphError, "expected the outputs"
    ),
    "two results": Attack(
        program(lambda d: d.update(outputs=d["outputs"] * 2)), GraphError, "expected the outputs"
    ),
    "no result": Attack(program(lambda d: d.update(outputs=[])), GraphError, "expected the outputs"),
    "a size as the result": Attack(as_result("aten.sym_size.int", [IDS, 0]), GraphError, "first batch"),
    "a result without content": Attack(as_result("aten.to.device", META), GraphError, "first batch.*meta"),
}

ATTACKS = {
    f"{kind}: {name[:40]!r}": attack
    for kind, table in {
        "forbidden": FORBIDDEN,
        "broken": BROKEN,
        "names": NAMES,
        "values": VALUES,
        "failing": FAILING,
    }.items()
    for name, attack in table.items()
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = tiny["embed"].artifact
    tampered = copy_of(good, tmp_path)
    ATTACKS[name].tamper(tampered)
    assert_refused(tampered, ATTACKS[name], good)
    assert [path.name for path in tmp_path.iterdir()] == [tampered.name], "the program wrote a file"


def test_every_allowed_operator_is_free_of_side_effects() -> None:
    """Checked for all operators of this torch, including those of TorchScript."""
    import torch

    from precast.runtime.backends.reference import resolve_op

    allowed = []
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
        try:
            resolve_op(name)
            allowed.append(schema)
        except ProgramError:
            continue
    assert len(allowed) > 500
    for schema in allowed:
        texts = [argument.name for argument in schema.arguments if str(argument.type) in ("str", "List[str]")]
        assert not schema.is_mutable
        assert not {"filename", "path", "file"} & set(texts), schema


def leaves(data: Json, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*way, key)
        yield from leaves(value, (*way, key))


def test_any_value_anywhere_is_refused_or_harmless(tiny: TinyModels, tmp_path: Path) -> None:
    good = tiny["classify"].artifact
    tampered = copy_of(good, tmp_path)
    original = read(tampered, GRAPH)
    rng = random.Random(0)
    ways = list(leaves(original))
    values = [None, True, -1, 0, 1, 3, 1.5, "", "x", "input_ids", [], [1], IDS, {}, {"dtype": "float32"}]
    for _ in range(300):
        data, way, value = copy.deepcopy(original), rng.choice(ways), rng.choice(values)
        parent = data
        for step in way[:-1]:
            parent = parent[step]
        parent[way[-1]] = value
        (tampered / GRAPH).write_text(json.dumps(data), "utf-8")
        sign(tampered, read(tampered))
        try:
            with precast.Encoder.load(tampered) as engine:
                engine.classify(["the cat", [2, 5, 3]], return_exceptions=True)
        except PrecastError as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"{way} = {value!r} raises {error!r}") from error
    assert refusal(good) is None
    assert_serves(good)
