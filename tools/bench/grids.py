"""The tables of ``precast bench``, shared by the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from precast.tools.bench.bench_result import BenchResult, EncoderRow, GenerationRow
from precast.tools.bench.fresh import PHASES


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: content of the cell.
        good: whether the cell is a speedup of precast above 1.
        detail: secondary content, shown less prominently.
    """

    text: str
    good: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        title: title of the table.
        heads: column heads; the first one or two columns name the row.
        rows: cells, as many in each row as there are heads.
        ours: for each row, whether it belongs to precast.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    ours: tuple[bool, ...]


def grids(result: BenchResult) -> list[Grid]:
    """Return all tables of a result, in order."""
    tables = [*_encoders(result), *_generators(result), _once(result)]
    if result.arrivals:
        tables.append(_arrivals(result))
    if result.skipped:
        rows = tuple((Cell(one.name), Cell(one.reason)) for one in result.skipped)
        tables.append(Grid("Not measured", ("contender", "reason"), rows, (False,) * len(rows)))
    return tables


def accuracy(row: EncoderRow) -> str:
    """Return the cosine, or the relative error for outputs without a cosine."""
    return f"relative error {row.relative_error:.1e}" if row.min_cosine is None else f"{row.min_cosine:.5f}"


def _encoders(result: BenchResult) -> Iterator[Grid]:
    heads = (
        "batch", "contender", "token ids, ms", "× HF fp32", "× best peer",
        "text, ms", "× HF fp32", "× best peer", "texts/s", "cosine to HF fp32",
    )  # fmt: skip
    for given in result.texts:
        rows = [row for row in result.encoder_rows() if row.texts == given.name]
        alone = {(row.batch, row.contender): row for row in rows if row.input == "ids"}
        cells, ours = [], []
        for row in rows:
            if row.input != "texts":
                continue
            mine = row.contender in result.ours()
            model = alone[row.batch, row.contender]
            cells.append(
                (
                    Cell(str(row.batch)), Cell(row.contender),
                    _milliseconds(model), *_ratios(model, mine),
                    _milliseconds(row), *_ratios(row, mine),
                    Cell(f"{row.texts_per_s:.0f}"), Cell(accuracy(row)),
                )
            )  # fmt: skip
            ours.append(mine)
        title = f"{given.name}: {given.texts} texts, {given.tokens} tokens"
        yield Grid(title, heads, tuple(cells), tuple(ours))


def _generators(result: BenchResult) -> Iterator[Grid]:
    heads = (
        "batch", "contender", "ms", "× HF fp32", "× best peer", "tokens/s", "token agreement with HF fp32",
    )  # fmt: skip
    for beams in dict.fromkeys(row.beams for row in result.generation_rows()):
        rows = [row for row in result.generation_rows() if row.beams == beams]
        ours = tuple(row.contender in result.ours() for row in rows)
        cells = tuple(
            (
                Cell(str(row.batch)), Cell(row.contender), _milliseconds(row), *_ratios(row, mine),
                Cell(f"{row.tokens_per_s:.0f}"), Cell(f"{row.token_agreement:.0%}"),
            )
            for row, mine in zip(rows, ours, strict=True)
        )  # fmt: skip
        yield Grid("Greedy search" if beams == 1 else f"{beams} beams", heads, cells, ours)


def _once(result: BenchResult) -> Grid:
    """Return the table of cold start, peak memory, and tokenization or time to the first token."""
    sets = [given.name for given in result.texts]
    last = [f"tokenize {name}, ms" for name in sets] or ["first token, ms"]
    heads = ("contender", *(f"{phase}, s" for phase in PHASES), "cold start, s", "peak memory, MB", *last)
    cells = []
    for one in result.contenders:
        memory = "" if one.peak_memory_bytes is None else f"{one.peak_memory_bytes / 1e6:.0f}"
        first = "not streamed" if one.first_token_ms is None else f"{one.first_token_ms:.1f}"
        times = [f"{one.tokenization_ms[name]:.1f}" for name in sets] or [first]
        texts = [f"{one.cold_start_s[phase]:.2f}" for phase in PHASES]
        total = f"{sum(one.cold_start_s.values()):.2f}"
        cells.append(tuple(Cell(text) for text in (one.name, *texts, total, memory, *times)))
    ours = tuple(one.name in result.ours() for one in result.contenders)
    return Grid("Cold start and memory", heads, tuple(cells), ours)


def _arrivals(result: BenchResult) -> Grid:
    heads = ("arrivals", "contender", "batching", "tokens/s", "p50 latency, s", "p95 latency, s")
    cells = tuple(
        (
            Cell(one.arrival), Cell(one.contender), Cell(one.batching), Cell(f"{one.tokens_per_s:.0f}"),
            Cell(f"{one.p50_s:.3f}"), Cell(f"{one.p95_s:.3f}"),
        )
        for one in result.arrivals
    )  # fmt: skip
    return Grid("Mixed-length requests", heads, cells, (True,) * len(cells))


def _milliseconds(row: EncoderRow | GenerationRow) -> Cell:
    """Return the median and the quartiles."""
    return Cell(f"{row.median_ms:.2f}", detail=f"({row.lower_quartile_ms:.2f}–{row.upper_quartile_ms:.2f})")


def _ratios(row: EncoderRow | GenerationRow, ours: bool) -> tuple[Cell, Cell]:
    """Return the speedups over HF fp32 and over the best peer, which is named in rows of precast."""
    hf = Cell(f"{row.speedup_vs_hf_fp32:.2f}×", ours and row.speedup_vs_hf_fp32 > 1)
    if row.speedup_vs_best_peer is None:
        return hf, Cell("")
    good = ours and row.speedup_vs_best_peer > 1
    return hf, Cell(f"{row.speedup_vs_best_peer:.2f}×", good, str(row.best_peer) if ours else "")
