"""Invalid manifests, most of them with a valid digest."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import precast
from precast.artifacts import host
from precast.artifacts.errors import (
    ArchitectureError,
    DeviceError,
    FileHashError,
    FileSizeError,
    FormatVersionError,
    InstructionSetError,
    ManifestError,
    MissingFileError,
    TorchVersionError,
    UnexpectedFileError,
    UnsafePathError,
    WeightsError,
)
from precast.graphs.encode import MAX_BATCH, MAX_TOKENS
from precast.graphs.errors import PrecastError, ProgramError
from precast.runtime.errors import GraphError
from tests.attacks.tampering import (
    GRAPH,
    MANIFEST,
    WEIGHTS,
    Attack,
    Json,
    Tamper,
    assert_refused,
    assert_serves,
    change,
    copy_of,
    edit,
    read,
    sign_only,
)
from tests.support.artifacts import TinyModels

FORMAT = "does not follow format version 2"
GRAPHS = "graphs.encode"
SIGNATURE = f"{GRAPHS}.signature"
HUGE = 10**12
COSTS = [0.001, 0.002, 0.003, 0.005]
"""Costs of the four buckets; a portable artifact has none."""
SINGLE = {"axis": "tokens", "sizes": [128]}


def text(content: str | bytes) -> Tamper:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / MANIFEST).write_bytes(data)


def within(old: str, new: str) -> Tamper:
    """Replace text in the manifest file without updating the digest."""

    def tamper(folder: Path) -> None:
        before = (folder / MANIFEST).read_text("utf-8")
        assert old in before
        (folder / MANIFEST).write_text(before.replace(old, new, 1), "utf-8")

    return tamper


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def of_graph(**facts: Json) -> Tamper:
    """Change the entry of the graph in ``files``."""
    return edit(lambda data: data["files"][GRAPH].update(facts))


def listed_as(path: str) -> Tamper:
    """List the graph under another path."""

    def alter(data: Json) -> None:
        data["files"][path] = data["files"].pop(GRAPH)
        data["graphs"]["encode"]["variants"][0]["file"] = path

    return edit(alter)


def add_graph(folder: Path) -> None:
    """Add a second graph, whose file does not exist."""
    data = read(folder)
    more = copy.deepcopy(data["graphs"]["encode"])
    more["variants"][0]["file"] = "graphs/gone.json"
    data["graphs"]["decode"] = more
    data["files"]["graphs/gone.json"] = data["files"][GRAPH]
    sign_only(folder, data)


def add_variant(folder: Path) -> None:
    """Add a variant, whose file does not exist."""
    data = read(folder)
    more = {**data["graphs"]["encode"]["variants"][0], "file": "graphs/gone.json", "max_size": 1}
    data["graphs"]["encode"]["variants"].insert(0, more)
    data["files"]["graphs/gone.json"] = data["files"][GRAPH]
    sign_only(folder, data)


def weights_as_graph(folder: Path) -> None:
    data = read(folder)
    data["graphs"]["encode"]["variants"][0]["file"] = WEIGHTS
    del data["files"][GRAPH]
    (folder / GRAPH).unlink()
    sign_only(folder, data)


def limits(length: int, tokens: int, batch: int) -> Tamper:
    """Change the limits, with the signature and the buckets to match."""

    def alter(data: Json) -> None:
        data["limits"] = {"max_length": length, "max_tokens": tokens, "max_batch": batch}
        graph = data["graphs"]["encode"]
        for axis, most in zip(graph["signature"]["axes"], (tokens, batch, length), strict=True):
            axis["maximum"] = max(2, most)
        graph["buckets"]["sizes"] = [tokens]

    return edit(alter)


def costs(*seconds: Json) -> Tamper:
    return change(f"{GRAPHS}.costs", list(seconds))


def as_inductor(**build: Json) -> Tamper:
    """Claim compiled graphs: only those depend on the machine."""
    return edit(lambda data: data["build"].update({"backend": "inductor", **build}))


SM_90 = {"release": "13.0", "compute_capability": [9, 0]}


def as_cuda(**info: Json) -> Tamper:
    return as_inductor(device="cuda", cuda={**SM_90, **info})


UNREADABLE = {
    "empty": Attack(text(""), ManifestError, "not JSON"),
    "not UTF-8": Attack(text(b"\xff\xfe\x00\x80"), ManifestError, "not JSON"),
    "not JSON": Attack(text("format_version = 2"), ManifestError, "not JSON"),
    "a list": Attack(text("[1]"), ManifestError, "list"),
    "null": Attack(text("null"), ManifestError, "NoneType"),
    "a text": Attack(text('"manifest"'), ManifestError, "str"),
    "nested 100 deep": Attack(text(nested(100)), ManifestError, "list"),
    "nested 100,000 deep": Attack(text(nested(100_000)), ManifestError, "nested"),
    "a number of a million digits": Attack(text("9" * 10**6), ManifestError, "not JSON"),
    "a byte order mark": Attack(text(b"\xef\xbb\xbf{}"), ManifestError, "not JSON"),
    "a repeated key": Attack(within("{", '{"format_version": 2,'), ManifestError, "format_version"),
    "a repeated key within": Attack(within('"build": {', '"build": {"torch": "1",'), ManifestError, "torch"),
    "NaN": Attack(within('"hidden_size": 16', '"hidden_size": NaN'), ManifestError, "NaN"),
    "infinity": Attack(within('"hidden_size": 16', '"hidden_size": 1e999'), ManifestError, "1e999"),
    "a value changed without the digest": Attack(
        within('"fp32"', '"bf16"'), ManifestError, "digest is '[0-9a-f]"
    ),
    "no digest": Attack(edit(lambda d: d.pop("digest"), signed=False), ManifestError, "digest is None"),
    "another digest": Attack(
        edit(lambda d: d.update(digest="0" * 64), signed=False), ManifestError, "digest is '000"
    ),
    "a digest that is no text": Attack(
        edit(lambda d: d.update(digest={"a": [1]}), signed=False), ManifestError, "digest is {"
    ),
    "only a version": Attack(text('{"format_version": 2}'), ManifestError, "digest is None"),
}

VERSIONS = {
    f"version {value!r:.9}": Attack(change("format_version", value), FormatVersionError, message)
    for value, message in (
        (0, "version 0,"), (1, "version 1,"), (3, "version 3,"), ("2", "version '2',"),
        (True, "version True,"), (2.0, r"version 2\.0,"), (None, "version None,"), ([2], r"version \[2\],"),
        ("2" * 10**6, "222"),
    )
}  # fmt: skip

SCHEMA = {
    "an unknown key": Attack(edit(lambda d: d.update(comment="hi")), ManifestError, f"{FORMAT}: comment"),
    "an unknown key within": Attack(change("build.cuda", "12.4"), ManifestError, r"build\.cuda"),
    "an unknown key of an axis": Attack(change(f"{SIGNATURE}.axes.0.step", 2), ManifestError, "step"),
    "a missing key": Attack(
        edit(lambda d: d.pop("output")), ManifestError, f"{FORMAT}: output: Field required"
    ),
    "a list of keys": Attack(change("model", ["name"]), ManifestError, "model.*'name'"),
    "a number as text": Attack(change("model.vocab_size", "61"), ManifestError, "vocab_size.*'61'"),
    "true as a number": Attack(change("model.parameters", True), ManifestError, "parameters.*True"),
    "a number as true": Attack(change("tokenization.token_types", 1), ManifestError, "token_types.*1"),
    "a fraction as a number": Attack(change("limits.max_batch", 8.5), ManifestError, r"max_batch.*8\.5"),
    "a whole fraction": Attack(change("limits.max_batch", 8.0), ManifestError, r"max_batch.*8\.0"),
    "a negative count": Attack(change("model.parameters", -1), ManifestError, "parameters.*-1"),
    "no vocabulary": Attack(change("model.vocab_size", 0), ManifestError, "vocab_size.*0"),
    "a vocabulary beyond 32 bits": Attack(change("model.vocab_size", 2**31), ManifestError, "vocab_size"),
    "no kind": Attack(
        edit(lambda d: d.pop("kind")), ManifestError, "kind: expected one of encode, generate, found None"
    ),
    "an unknown kind": Attack(change("kind", "chat"), ManifestError, "kind.*encode, generate.*chat"),
    "a kind that is not text": Attack(change("kind", ["encode"]), ManifestError, "kind.*encode"),
    "the kind of a generator": Attack(
        change("kind", "generate"), ManifestError, "limits.max_source_length: Field req"
    ),
    "a buffer without its role": Attack(
        edit(lambda d: d["graphs"]["encode"]["signature"]["inputs"][0].pop("role")),
        ManifestError,
        r"keys.*graphs\.encode\.signature\.inputs\.0\.role",
    ),
    "an unknown role": Attack(change(f"{SIGNATURE}.inputs.0.role", "pool"), ManifestError, "role.*pool"),
    "an unknown task": Attack(change("model.task", "dance"), ManifestError, "task.*dance"),
    "an unknown backend": Attack(change("build.backend", "onnx"), ManifestError, "backend.*onnx"),
    "an unknown output": Attack(change("output.kind", "audio"), ManifestError, "output.*audio"),
    "an unknown dtype": Attack(change("build.dtype", "int4"), ManifestError, "dtype.*int4"),
    "no graphs": Attack(change("graphs", {}), ManifestError, "graphs"),
    "65 graphs": Attack(
        edit(lambda d: d["graphs"].update({f"g{i}": d["graphs"]["encode"] for i in range(65)})),
        ManifestError,
        "graphs",
    ),
    "257 files": Attack(
        edit(lambda d: d["files"].update({f"f{i}": d["files"][GRAPH] for i in range(257)})),
        ManifestError,
        "files",
    ),
    "ten thousand mistakes": Attack(
        change("notes", list(range(10_000))), ManifestError, "notes.0.*and 9997 more"
    ),
    "text that UTF-8 lacks": Attack(change("model.name", "\udcff"), ManifestError, "manifest"),
    "a value nested 150 deep": Attack(change("model.name", json.loads(nested(150))), ManifestError, "name"),
    "a value nested 700 deep": Attack(
        change("model.name", json.loads(nested(700))), ManifestError, "recursion|nested"
    ),
}

PATHS = {
    f"the path {path!r:.20}": Attack(listed_as(path), UnsafePathError, "names the file")
    for path in (
        "../x", "..", ".", "/etc/passwd", "graphs/../../x", "a/b/c", "graphs//x", "graphs/", "", "c:\\x",
        "a\0b", "a\n", "~root", "graphs/..", "a/.b", "über.json", "A.json", "a" * 200, MANIFEST, "a\\b",
    )
}  # fmt: skip

FILES = {
    "a size of -1": Attack(of_graph(bytes=-1), ManifestError, "bytes.*-1"),
    "another size": Attack(of_graph(bytes=1), FileSizeError, "expected 1;"),
    "a size beyond any disk": Attack(of_graph(bytes=10**30), FileSizeError, "expected 10000"),
    "another hash": Attack(of_graph(sha256="0" * 64), FileHashError, f"{GRAPH}.*expected 000"),
    "an invalid hash": Attack(of_graph(sha256="F" * 64), ManifestError, "sha256"),
    "a graph without its file": Attack(add_variant, MissingFileError, "gone"),
    "an additional graph": Attack(
        add_graph, ManifestError, "expected the graphs encode, found decode, encode"
    ),
    "a file by another name": Attack(listed_as("graphs/gone.json"), UnexpectedFileError, GRAPH),
    "a file that is not listed": Attack(
        change(f"{GRAPHS}.variants.0.file", "gone"), ManifestError, "gone.*but files lists"
    ),
    "a file that nothing needs": Attack(change("weights", None), ManifestError, "but files lists"),
    "weights as a graph": Attack(weights_as_graph, ProgramError, f"{WEIGHTS} is not UTF-8"),
}

MACHINE = {
    "a missing CUDA device": Attack(as_cuda(), DeviceError, "CUDA sm_90.*--device cpu"),
    "cuda without its architecture": Attack(as_inductor(device="cuda"), ManifestError, "cuda = None"),
    "quantization on cuda": Attack(
        edit(lambda d: d["build"].update(device="cuda", cuda=SM_90, backend="inductor", quantization="int8")),
        ManifestError,
        "quantization requires the device cpu, found cuda with int8",
    ),
    "an unknown quantization": Attack(change("build.quantization", "int3"), ManifestError, "quantization"),
    "an architecture without cuda": Attack(
        as_inductor(cuda=SM_90), ManifestError, "expected cuda = None for the device cpu, found cuda"
    ),
    "an architecture before all others": Attack(
        as_cuda(compute_capability=[1, 0]), ManifestError, "compute_capability"
    ),
    "the reference backend on cuda": Attack(
        edit(lambda d: d["build"].update(device="cuda", cuda=SM_90)), ManifestError, "reference.*cpu"
    ),
    "fp16 on a cpu": Attack(change("build.dtype", "fp16"), ManifestError, "fp16 requires the device cuda"),
    "another device": Attack(change("build.device", "toaster"), ManifestError, "device.*toaster"),
    "no device": Attack(change("build.device", ""), ManifestError, "device"),
    "another architecture": Attack(
        as_inductor(architecture="riscv64"), ArchitectureError, f"riscv64.*{host.architecture()}"
    ),
    "another instruction set": Attack(
        as_inductor(instruction_sets=["avx1024"]), InstructionSetError, "avx1024"
    ),
    "an older torch": Attack(as_inductor(torch="1.13.1"), TorchVersionError, r"torch==1\.13\.1"),
    "another build tag": Attack(
        as_inductor(torch=host.torch_release() + "+cu126"), TorchVersionError, "found " + host.torch_release()
    ),
    "a program as a library": Attack(as_inductor(), GraphError, "encode.json cannot be loaded"),
}

CONTRADICTIONS = {
    "a variant that ends before the limits": Attack(
        change(f"{GRAPHS}.variants.0.max_size", 7), ManifestError, r"hold \[7\] tokens"
    ),
    "two variants for one size": Attack(
        edit(lambda d: d["graphs"]["encode"]["variants"].append(d["graphs"]["encode"]["variants"][0])),
        ManifestError,
        "ascending",
    ),
    "no variant": Attack(change(f"{GRAPHS}.variants", []), ManifestError, "variants"),
    "no encode graph": Attack(
        edit(lambda d: d["graphs"].update(decode=d["graphs"].pop("encode"))), ManifestError, "decode"
    ),
    "another graph's name": Attack(change(f"{SIGNATURE}.graph", "decode"), ManifestError, "decode"),
    "another buffer": Attack(change(f"{SIGNATURE}.inputs.0.name", "ids"), ManifestError, "inputs.*'ids'"),
    "a buffer more": Attack(
        edit(
            lambda d: d["graphs"]["encode"]["signature"]["inputs"].append(
                {"name": "more", "dtype": "int32", "shape": ["tokens"], "role": "input"}
            )
        ),
        ManifestError,
        "inputs of graph encode.*more",
    ),
    "a missing buffer": Attack(
        edit(lambda d: d["graphs"]["encode"]["signature"]["inputs"].pop()), ManifestError, "inputs"
    ),
    "a buffer twice": Attack(
        change(f"{SIGNATURE}.inputs.0.name", "cu_seqlens"), ManifestError, "cu_seqlens.*repeat|repeat"
    ),
    "another dtype": Attack(change(f"{SIGNATURE}.inputs.0.dtype", "int64"), ManifestError, "int64"),
    "an unknown dtype of a buffer": Attack(
        change(f"{SIGNATURE}.inputs.0.dtype", "float8"), ManifestError, "float8"
    ),
    "another rank": Attack(change(f"{SIGNATURE}.inputs.0.shape", ["tokens", 1]), ManifestError, "inputs"),
    "no rank": Attack(change(f"{SIGNATURE}.inputs.0.shape", []), ManifestError, "inputs"),
    "a negative dimension": Attack(change(f"{SIGNATURE}.outputs.0.shape.1", -16), ManifestError, "-16"),
    "an unknown axis": Attack(change(f"{SIGNATURE}.inputs.0.shape", ["rows"]), ManifestError, "rows"),
    "an axis plus a word": Attack(
        change(f"{SIGNATURE}.inputs.0.shape", ["tokens+x"]), ManifestError, r"tokens\+x"
    ),
    "an axis plus a million": Attack(
        change(f"{SIGNATURE}.inputs.0.shape", ["tokens+1000000"]), ManifestError, r"tokens\+1000000"
    ),
    "no outputs": Attack(change(f"{SIGNATURE}.outputs", []), ManifestError, "outputs"),
    "an output without a shape": Attack(change(f"{SIGNATURE}.outputs.0.shape", []), ManifestError, "outputs"),
    "an output of another size": Attack(
        change(f"{SIGNATURE}.outputs.0.shape.1", 17), ManifestError, "outputs.*17.*16"
    ),
    "an output of a named size": Attack(
        change(f"{SIGNATURE}.outputs.0.shape.1", "tokens"), ManifestError, "outputs"
    ),
    "inverted limits of an axis": Attack(
        change(f"{SIGNATURE}.axes.0.minimum", 500), ManifestError, "500 and 128"
    ),
    "an axis from nothing": Attack(change(f"{SIGNATURE}.axes.0.minimum", 0), ManifestError, "0 and 128"),
    "a gigantic axis": Attack(change(f"{SIGNATURE}.axes.0.maximum", HUGE), ManifestError, str(HUGE)),
    "no axes": Attack(change(f"{SIGNATURE}.axes", []), ManifestError, "unknown axis"),
    "descending buckets": Attack(change(f"{GRAPHS}.buckets.sizes", [32, 16]), ManifestError, "32, 16"),
    "repeated buckets": Attack(change(f"{GRAPHS}.buckets.sizes", [128, 128]), ManifestError, "128, 128"),
    "no buckets": Attack(change(f"{GRAPHS}.buckets.sizes", []), ManifestError, "buckets"),
    "a bucket of nothing": Attack(change(f"{GRAPHS}.buckets.sizes", [0, 128]), ManifestError, "0, 128"),
    "fewer costs than buckets": Attack(costs(0.1, 0.2, 0.3), ManifestError, "3 costs for 4 buckets"),
    "more costs than buckets": Attack(costs(0.1, 0.2, 0.3, 0.4, 0.5), ManifestError, "5 costs for 4 buckets"),
    "empty costs": Attack(costs(), ManifestError, "0 costs for 4 buckets"),
    "costs of removed buckets": Attack(
        edit(lambda d: d["graphs"]["encode"].update(costs=COSTS, buckets=SINGLE)),
        ManifestError,
        "4 costs for 1 buckets",
    ),
    "a bucket that costs nothing": Attack(costs(0.1, 0.2, 0, 0.4), ManifestError, r"costs\.2.*found 0"),
    "a bucket of negative cost": Attack(costs(-0.1, 0.2, 0.3, 0.4), ManifestError, r"costs\.0.*-0\.1"),
    "a bucket of ages": Attack(costs(0.1, 0.2, 0.3, 1e300), ManifestError, r"costs\.3.*1e\+300"),
    "a cost as text": Attack(costs(0.1, "0.2", 0.3, 0.4), ManifestError, r"costs\.1.*'0\.2'"),
    "a cost as true": Attack(costs(0.1, True, 0.3, 0.4), ManifestError, r"costs\.1.*True"),
    "a cost for all": Attack(change(f"{GRAPHS}.costs", 0.1), ManifestError, r"costs.*0\.1"),
    "buckets of another axis": Attack(change(f"{GRAPHS}.buckets.axis", "rows"), ManifestError, "rows"),
    "buckets that end elsewhere": Attack(change(f"{GRAPHS}.buckets.sizes", [64]), ManifestError, "64"),
    "limits that contradict the signature": Attack(
        change("limits.max_batch", 9), ManifestError, "axes.*8.*9"
    ),
    "a gigantic length": Attack(limits(HUGE, HUGE, 8), ManifestError, str(HUGE)),
    "a gigantic length alone": Attack(change("limits.max_length", HUGE), ManifestError, str(HUGE)),
    "a gigantic batch": Attack(limits(32, 128, HUGE), ManifestError, str(HUGE)),
    "more tokens than fit": Attack(limits(32, MAX_TOKENS + 1, 8), ManifestError, str(MAX_TOKENS)),
    "more inputs than fit": Attack(limits(32, 128, MAX_BATCH + 1), ManifestError, str(MAX_BATCH)),
    "an input longer than a batch": Attack(limits(129, 128, 8), ManifestError, "129"),
    "a batch of nothing": Attack(limits(32, 128, 0), ManifestError, "max_batch=0"),
    "a negative length": Attack(limits(-1, 128, 8), ManifestError, "max_length=-1"),
    "labels for an embedding": Attack(
        change(
            "output",
            {"kind": "classify", "labels": ["a"], "activation": "softmax", "score_activation": "sigmoid"},
        ),
        ManifestError,
        f"{FORMAT}: the task embed does not fit an output of kind classify",
    ),
    "hidden states for an embedding": Attack(
        change("output", {"kind": "hidden", "size": 16}), ManifestError, "task embed .* kind hidden"
    ),
    "another task": Attack(change("model.task", "hidden"), ManifestError, "task hidden .* kind embed"),
    "another embedding size": Attack(change("output.size", HUGE), ManifestError, f"16.*{HUGE}"),
    "an embedding of nothing": Attack(change("output.size", 0), ManifestError, r"size.*0"),
    "a vocabulary beyond the table": Attack(
        change("model.vocab_size", 62), GraphError, "first batch.*index out of range"
    ),
    "a weight that is not there": Attack(change(f"{GRAPHS}.constants", ["gone"]), WeightsError, "gone"),
    "a weight less than is needed": Attack(change(f"{GRAPHS}.constants", []), ProgramError, "needs weights"),
}

ATTACKS = {
    f"{kind}: {name}": attack
    for kind, table in {
        "unreadable": UNREADABLE,
        "version": VERSIONS,
        "schema": SCHEMA,
        "path": PATHS,
        "files": FILES,
        "machine": MACHINE,
        "contradiction": CONTRADICTIONS,
    }.items()
    for name, attack in table.items()
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, tiny: TinyModels, tmp_path: Path) -> None:
    good = tiny["embed"].artifact
    tampered = copy_of(good, tmp_path)
    ATTACKS[name].tamper(tampered)
    assert_refused(tampered, ATTACKS[name], good)


def test_no_labels_are_refused(tiny: TinyModels, tmp_path: Path) -> None:
    good = tiny["classify"].artifact
    tampered = copy_of(good, tmp_path)
    for labels, message in (
        (["a"], "outputs.*3.*1"),
        (["a", "b", "c", "d"], "outputs.*3.*4"),
        ([], "labels"),
    ):
        change("output.labels", labels)(tampered)
        assert_refused(tampered, Attack(change("output.labels", labels), ManifestError, message), good)


def test_a_portable_artifact_does_not_depend_on_the_machine(tiny: TinyModels, tmp_path: Path) -> None:
    tampered = copy_of(tiny["embed"].artifact, tmp_path)
    build = {"torch": "2.11.0", "architecture": "riscv64", "instruction_sets": ["avx1024"]}
    edit(lambda data: data["build"].update(build))(tampered)
    assert_serves(tampered)


def paths(data: Json, parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the path of every value in the manifest that ``change`` can follow."""
    if parents:
        yield ".".join(parents)
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        if "." not in str(key):
            yield from paths(value, (*parents, str(key)))


def test_any_value_anywhere_is_refused_or_harmless(tiny: TinyModels, tmp_path: Path) -> None:
    """No value may raise an error outside ``PrecastError``, hang, or end the process."""
    good = tiny["classify"].artifact
    rng = random.Random(0)
    tampered = copy_of(good, tmp_path)
    costs(*COSTS)(tampered)
    original = (tampered / MANIFEST).read_bytes()
    values = [
        None,
        True,
        -1,
        0,
        1,
        2,
        3,
        1.5,
        2**31,
        10**30,
        "",
        "x",
        "cpu",
        "../x",
        [],
        [1],
        ["x"],
        {},
        {"a": 1},
    ]
    choices = [(path, value) for path in paths(json.loads(original)) for value in values]
    for path, value in rng.sample(choices, 500):
        (tampered / MANIFEST).write_bytes(original)
        change(path, value)(tampered)
        try:
            with precast.Encoder.load(tampered) as engine:
                engine.classify(["the cat", [2, 5, 3]], return_exceptions=True)
        except PrecastError as error:
            assert str(error), f"{path} = {value!r}"
        except Exception as error:
            raise AssertionError(f"{path} = {value!r} raises {error!r}") from error
    assert_serves(good)
