"""C++ kernels for AVX-512 against the same operators in torch, at random sizes."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precast.artifacts import host
from precast.compiler.kernels.avx512 import decode, linear, linear_int8, log_softmax, norm, packed
from precast.compiler.kernels.avx512.linear import from_panels, to_panels
from precast.compiler.kernels.avx512.linear_int8 import PanelLinearInt8
from precast.compiler.quantization.linear_int8 import QuantizedLinear
from tests.support.cpp import Form, Library

pytestmark = pytest.mark.skipif(
    not {"avx512_bf16", "avx512_vnni"} <= host.instruction_sets(), reason="these kernels are for AVX-512"
)
RANDOM = settings(max_examples=60, deadline=None)
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
FUNCTION_ERROR = {torch.float32: 3e-6, torch.bfloat16: 2e-4}
"""The largest error of GELU, see ``vector.h``; it is visible if all outputs are close to zero."""
SUM_ERROR = 5e-7
"""The error of a sum in fp32, relative to the sum of magnitudes; it is visible if summands cancel."""
EPS = 1e-5
ACTIVATIONS = tuple(linear.ACTIVATION_TYPES)
LENGTHS = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 130]))
HEAD_SIZES = st.sampled_from([1, 2, 7, 8, 16, 20, 32, 33, 64, 80, 128])


def assert_near(found: Tensor, expected: Tensor, off: float = 0.0) -> None:
    """Assert agreement within the tolerance of the dtype, relative to the largest magnitude.

    Args:
        found: output of the kernel.
        expected: output of torch.
        off: absolute error that is always allowed.
    """
    largest = float(expected.float().abs().max()) if expected.numel() else 0.0
    error = float((found.float() - expected.float()).abs().max()) if expected.numel() else 0.0
    assert error <= max(off, TOLERANCE[expected.dtype] * max(largest, 1e-3))


@cache
def linear_library(blocks: bool) -> tuple[list[tuple[torch.dtype, str, bool]], Library]:
    forms = list(product(DTYPES, ACTIVATIONS, (False, True)))
    return forms, Library(
        linear.LINEAR,
        [
            Form({"x": dtype, "panels": dtype, "bias": torch.float32 if bias else None, "residual": dtype,
                  "out": dtype}, {"activation": activation})
            for dtype, activation, bias in forms
        ],
        numbers=["columns"],
        defined=["PRECAST_BLOCKS"] if blocks else [],
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [False, True], ids=["tiles", "blocks"])
@RANDOM
@given(
    rows=st.one_of(st.integers(1, 18), st.sampled_from([48, 63, 95, 96, 97, 200])),
    inner=st.integers(1, 80),
    columns=st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 129])),
    form=st.integers(0, 2 * 2 * len(ACTIVATIONS) - 1),
    added=st.booleans(),
    spare=st.sampled_from([0, 6]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_linear(
    blocks: bool,
    rows: int,
    inner: int,
    columns: int,
    form: int,
    added: bool,
    spare: int,
    threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    forms, library = linear_library(blocks)
    dtype, activation, has_bias = forms[form]
    inner = inner if dtype is torch.float32 else 2 * inner
    x = torch.randn(rows, inner + spare).to(dtype)[:, :inner]
    weight, bias = torch.randn(columns, inner).to(dtype), torch.randn(columns) if has_bias else None
    residual = torch.randn(rows, columns).to(dtype) if added else None
    out = torch.full((rows, columns), float("nan"), dtype=dtype)
    panels = to_panels(weight)
    assert torch.equal(from_panels(panels, columns, inner), weight)
    tensors = {"x": x, "panels": panels, "bias": bias, "residual": residual, "out": out}
    library.run(form, tensors, threads, columns=columns)
    off = SUM_ERROR * float((x.float().abs() @ weight.float().abs().T).max())
    off += FUNCTION_ERROR[dtype] if activation == "gelu" else 0.0
    assert_near(out, linear.panel_linear(x, panels, bias, residual, columns, activation, dtype), off)


@cache
def int8_library(blocks: bool) -> tuple[list[tuple[torch.dtype, torch.dtype]], Library]:
    forms = [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ]
    plain = dict.fromkeys(("scale", "sums", "smooth", "bias"), torch.float32)
    return forms, Library(
        linear_int8.LINEAR_INT8,
        [
            Form({"x": given, "panels": torch.int8, **plain, "residual": wanted, "out": wanted},
                 {"activation": "gelu"})
            for given, wanted in forms
        ],
        numbers=["columns"],
        defined=["PRECAST_BLOCKS"] if blocks else [],
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [False, True], ids=["tiles", "blocks"])
@RANDOM
@given(
    rows=st.one_of(st.integers(1, 18), st.sampled_from([63, 96, 97, 144, 150, 300])),
    inner=st.one_of(st.integers(1, 40), st.sampled_from([64, 255])),
    columns=st.one_of(st.integers(1, 20), st.sampled_from([64, 65])),
    form=st.integers(0, 2),
    shift=st.sampled_from([-8.0, 0.0, 3.0]),
    added=st.booleans(),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_linear_int8(
    blocks: bool,
    rows: int,
    inner: int,
    columns: int,
    form: int,
    shift: float,
    added: bool,
    threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    forms, library = int8_library(blocks)
    given_dtype, wanted = forms[form]
    x = (torch.randn(rows, inner) + shift).to(given_dtype)
    x[0] = 0
    layer = PanelLinearInt8(
        QuantizedLinear(torch.randn(columns, inner), torch.randn(columns), x.abs().amax(0), "gelu", wanted)
    )
    out = torch.full((rows, columns), float("nan"), dtype=wanted)
    tensors = {name: getattr(layer, name) for name in ("panels", "scale", "sums", "smooth", "bias")}
    residual = torch.randn(rows, columns).to(wanted) if added else None
    library.run(form, {"x": x, **tensors, "residual": residual, "out": out}, threads, columns=columns)
    # A number halfway between two quantization steps may be rounded to either: one step of one factor.
    expected = layer(x, residual).float()
    step = (x.float() * layer.smooth).abs().amax() * 2 / 255 * layer.scale.max() * 127
    off = float(step) + FUNCTION_ERROR[wanted] + 1e-2 * float(expected.abs().max())
    assert float((out.float() - expected).abs().max()) <= off


@cache
def norm_library() -> tuple[list[tuple[torch.dtype, bool, bool]], Library]:
    forms = list(product(DTYPES, (False, True), (False, True)))
    return forms, Library(
        norm.NORM,
        [
            Form({"numbers": dtype, "weight": torch.float32,
                  "bias": torch.float32 if bias else None, "out": dtype}, {"eps": EPS, "centered": centered})
            for dtype, centered, bias in forms
        ],
    )  # fmt: skip


@RANDOM
@given(
    rows=st.one_of(st.integers(1, 9), st.sampled_from([300])),
    groups=st.integers(1, 3),
    size=st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 200])),
    shift=st.sampled_from([-30.0, 0.0, 2.0]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    spare=st.integers(0, 2),
    form=st.integers(0, 7),
    threads=st.sampled_from([1, 2, 3]),
)
def test_norm(
    rows: int, groups: int, size: int, shift: float, spread: float, spare: int, form: int, threads: int
) -> None:
    torch.manual_seed(size)
    forms, library = norm_library()
    dtype, centered, has_bias = forms[form]
    numbers = (torch.randn(rows, groups + spare, size) * spread + shift).to(dtype)[:, :groups]
    weight, bias = torch.randn(size), torch.randn(size) if has_bias else None
    out = torch.full((rows, groups, size), float("nan"), dtype=dtype)
    library.run(form, {"numbers": numbers, "weight": weight, "bias": bias, "out": out}, threads)
    # The error of either mean shifts all numbers, which are then divided by their standard deviation.
    deviation = numbers.double().var(-1, correction=0).add(EPS).sqrt()
    off = 2 * SUM_ERROR * float((numbers.abs().amax(-1) / deviation).max()) * float(weight.abs().max())
    assert_near(out, norm.norm(numbers, weight, bias, EPS, centered), off)


@cache
def attention_library() -> tuple[list[tuple[torch.dtype, bool]], Library]:
    forms = list(product(DTYPES, (False, True)))
    return forms, Library(
        packed.ATTENTION,
        [
            Form({"query": dtype, "key": dtype, "value": dtype, "cu_seqlens": torch.int32,
                  "bias": torch.float32 if bias else None, "out": dtype}, {"scale": 0.25})
            for dtype, bias in forms
        ],
        numbers=["left", "right"],
    )  # fmt: skip


@RANDOM
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    kv_heads=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    head_dim=HEAD_SIZES,
    window=st.sampled_from([(-1, -1), (-1, 0), (0, 0), (4, 4), (20, 0), (40, 3)]),
    spare=st.integers(0, 3),
    form=st.integers(0, 3),
    threads=st.sampled_from([1, 2]),
)
def test_attention(
    lengths: list[int],
    kv_heads: int,
    groups: int,
    head_dim: int,
    window: tuple[int, int],
    spare: int,
    form: int,
    threads: int,
) -> None:
    torch.manual_seed(len(lengths))
    forms, library = attention_library()
    dtype, has_bias = forms[form]
    heads, tokens = kv_heads * groups, max(2, sum(lengths) + spare)
    rows = torch.randn(tokens, heads + 2 * kv_heads, head_dim).to(dtype)
    query, key, value = rows.split([heads, kv_heads, kv_heads], dim=1)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    bias = torch.randn(heads, 11) if has_bias else None
    out = torch.full((tokens, heads * head_dim), float("nan"), dtype=dtype)
    tensors = {"query": query, "key": key, "value": value, "cu_seqlens": offsets, "bias": bias, "out": out}
    library.run(form, tensors, threads, left=window[0], right=window[1])
    assert_near(out, packed.sequence_attention(query, key, value, offsets, bias, *window, 0.25))


@cache
def pool_library() -> tuple[list[tuple[torch.dtype, bool, bool]], Library]:
    forms = [(dtype, largest, weight) for dtype in DTYPES for largest, weight in ((0, 0), (0, 1), (1, 0))]
    named = [(dtype, bool(largest), bool(weight)) for dtype, largest, weight in forms]
    return named, Library(
        packed.POOL,
        [
            Form({"rows": dtype, "begin": torch.int64, "end": torch.int64,
                  "weight": torch.float32 if weight else None, "out": torch.float32}, {"largest": largest})
            for dtype, largest, weight in named
        ],
    )  # fmt: skip


@RANDOM
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=5),
    size=st.integers(1, 70),
    form=st.integers(0, 5),
    threads=st.sampled_from([1, 2]),
)
def test_pool(lengths: list[int], size: int, form: int, threads: int) -> None:
    torch.manual_seed(size)
    forms, library = pool_library()
    dtype, largest, has_weight = forms[form]
    ends = torch.tensor(lengths).cumsum(0)
    begin = torch.minimum(ends - torch.tensor(lengths) + 1, ends)
    rows = torch.randn(int(ends[-1]) + 1, size).to(dtype)
    weight = torch.rand(len(rows)) if has_weight else None
    out = torch.full((len(lengths), size), float("nan"))
    library.run(form, {"rows": rows, "begin": begin, "end": ends, "weight": weight, "out": out}, threads)
    assert_near(out, packed.sequence_pool(rows, begin, ends, weight, largest))


@cache
def decode_library() -> tuple[list[tuple[torch.dtype, bool]], Library]:
    forms = list(product(DTYPES, (False, True)))
    integers = dict.fromkeys(("slots", "seq_ids", "counts"), torch.int32)
    return forms, Library(
        decode.DECODE_ATTENTION,
        [
            Form({"query": dtype, "keys": dtype, "values": dtype, **integers,
                  "bias": torch.float32 if bias else None, "out": dtype}, {"scale": 0.25})
            for dtype, bias in forms
        ],
        numbers=["more"],
    )  # fmt: skip


@RANDOM
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=9),
    heads=st.integers(1, 9),
    head_dim=HEAD_SIZES,
    more=st.sampled_from([0, 1]),
    repeated=st.integers(0, 3),
    form=st.integers(0, 3),
    threads=st.sampled_from([1, 2]),
)
def test_decode_attention(
    counts: list[int], heads: int, head_dim: int, more: int, repeated: int, form: int, threads: int
) -> None:
    torch.manual_seed(heads)
    forms, library = decode_library()
    dtype, has_bias = forms[form]
    num_seqs, longest = len(counts) + 2, 41
    query = torch.randn(len(counts) + repeated, 3, heads, head_dim).to(dtype)[:, 1]
    query[len(counts) :] = query[len(counts) - 1]
    keys, values = torch.randn(2, num_seqs * longest, heads, head_dim).to(dtype)
    slots = torch.randperm(num_seqs * longest).to(torch.int32).view(num_seqs, longest)
    seq_ids = torch.randperm(num_seqs)[: len(counts)].to(torch.int32)
    visible = torch.zeros(num_seqs, dtype=torch.int32)
    visible[seq_ids.long()] = torch.tensor(counts, dtype=torch.int32)
    seq_ids = torch.cat([seq_ids, seq_ids[-1:].expand(repeated)])  # the padding of a step
    bias = torch.randn(heads, 7) if has_bias else None
    out = torch.full((len(seq_ids), heads * head_dim), float("nan"), dtype=dtype)
    tensors = {"query": query, "keys": keys, "values": values, "slots": slots, "seq_ids": seq_ids,
               "counts": visible, "bias": bias, "out": out}  # fmt: skip
    library.run(form, tensors, threads, more=more)
    expected = decode.decode_attention(query, keys, values, slots, seq_ids, visible, bias, more, 0.25)
    assert_near(out, expected)


@cache
def log_softmax_library() -> Library:
    dtypes = {"scores": torch.float32, "rows": torch.int64, "wanted": torch.bool, "out": torch.float32}
    return Library(log_softmax.LOG_SOFTMAX_TERMS, [Form(dtypes)])


SPECIAL = st.sampled_from([0.0, 1.0, -math.inf, math.inf, math.nan])


@RANDOM
@given(
    vocab=st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 1000])),
    wanted=st.lists(st.booleans(), min_size=1, max_size=7),
    spread=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
    special=st.lists(SPECIAL, max_size=3),
    threads=st.sampled_from([1, 2]),
)
def test_log_softmax_terms(
    vocab: int, wanted: list[bool], spread: float, special: list[float], threads: int
) -> None:
    torch.manual_seed(vocab)
    scores = torch.randn(5, vocab) * spread
    for row, number in enumerate(special):
        scores[row, -1 - row % vocab] = number
    rows, mask = torch.randint(5, (len(wanted),)), torch.tensor(wanted)
    out = torch.full((2, len(wanted)), float("nan"))
    log_softmax_library().run(0, {"scores": scores, "rows": rows, "wanted": mask, "out": out}, threads)
    expected = log_softmax.log_softmax_terms(scores, rows, mask)
    torch.testing.assert_close(out[1], expected[1], rtol=1e-5, atol=5e-6, equal_nan=True)
    finite = ~expected[1].isnan()  # otherwise the maximum is unspecified
    assert torch.equal(out[0, finite], expected[0, finite])
