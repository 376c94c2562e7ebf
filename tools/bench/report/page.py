"""The report of a result as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from precast.tools.bench.bench_result import BenchResult
from precast.tools.bench.fresh import PHASES
from precast.tools.bench.grids import Cell, Grid, grids
from precast.tools.bench.report.bars import bars, legend, waterfall
from precast.tools.bench.report.markup import Markup, element, joined
from precast.tools.bench.report.scatter import Point, scatter
from precast.tools.bench.report.style import STYLE

_OURS = "precast, any batch"


def page(result: BenchResult) -> str:
    """Return the report: charts, tables, machine and versions, without references to other files."""
    title = f"precast bench: {result.model}"
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element("h1", title),
        element("p", _summary(result), class_="soft"),
        *_charts(result),
        *(_table(grid) for grid in grids(result)),
        *_origin(result),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _summary(result: BenchResult) -> str:
    return (
        f"Task {result.task}, median of {result.rounds} interleaved rounds, each contender in its own "
        f"process with {result.threads} {'thread' if result.threads == 1 else 'threads'}. Compare "
        f"ratios, not absolute times; above 1 is faster. Quartiles are in parentheses."
    )


def _charts(result: BenchResult) -> Iterator[Markup]:
    yield element("h2", "Latency against throughput")
    yield element("p", "Up and to the left is better; both axes are logarithmic.", class_="soft")
    yield element("div", *_scatters(result), class_="charts")
    waste = {
        f"{given.name}, batch {batch}": value
        for given in result.texts
        for batch, value in given.padding.items()
        if batch != "1"
    }
    if waste:
        chart = bars({**waste, _OURS: 1.0}, [_OURS], "computed tokens per real token")
        yield element("h2", "Padding overhead")
        yield element("p", "Batches in the given order, padded to their longest text.", class_="soft")
        yield element("figure", chart)
    yield element("h2", "Cold start")
    yield element("p", "Time to the first result in a new process.", class_="soft")
    starts = {one.name: one.cold_start_s for one in result.contenders}
    yield element("figure", waterfall(starts, result.ours(), "seconds"), legend(PHASES))


def _scatters(result: BenchResult) -> Iterator[Markup]:
    """Yield one chart for each set of texts, or one for greedy search."""
    for given in result.texts:
        rows = [row for row in result.encoder_rows() if (row.texts, row.input) == (given.name, "texts")]
        batches = sorted({row.batch for row in rows})
        slow = {row.contender: row.median_ms for row in rows if row.batch == batches[0]}
        fast = {row.contender: row.texts_per_s for row in rows if row.batch == batches[-1]}
        labels = f"ms a call, batch {batches[0]}", f"texts/s, batch {batches[-1]}"
        yield _scatter(result, f"{given.name} texts, from strings", slow, fast, labels)
    if greedy := [row for row in result.generation_rows() if row.beams == 1]:
        batches = sorted({row.batch for row in greedy})
        slow = {row.contender: row.median_ms for row in greedy if row.batch == batches[0]}
        fast = {row.contender: row.tokens_per_s for row in greedy if row.batch == batches[-1]}
        labels = f"ms a call, batch {batches[0]}", f"tokens/s, batch {batches[-1]}"
        yield _scatter(result, "Greedy search", slow, fast, labels)


def _scatter(
    result: BenchResult, title: str, x: dict[str, float], y: dict[str, float], labels: tuple[str, str]
) -> Markup:
    points = [Point(name, x[name], y[name], name in result.ours()) for name in x]
    return element("figure", element("figcaption", title), scatter(points, *labels))


def _table(grid: Grid) -> Markup:
    head = element("tr", *(element("th", name) for name in grid.heads))
    rows = [
        element("tr", *(_cell(cell) for cell in row), class_="ours" if ours else "peer")
        for row, ours in zip(grid.rows, grid.ours, strict=True)
    ]
    whole = element("table", element("thead", head), element("tbody", *rows))
    return joined(element("h3", grid.title), element("div", whole, class_="scroll"))


def _cell(cell: Cell) -> Markup:
    detail = [element("small", f" {cell.detail}")] if cell.detail else []
    kind = "good" if cell.good else "plain"
    return element("td", cell.text, *detail, class_=kind)


def _origin(result: BenchResult) -> Iterator[Markup]:
    yield element("h2", "Machine and versions")
    facts = {**result.machine, **result.versions}
    rows = [element("tr", element("td", name), element("td", _fact(value))) for name, value in facts.items()]
    yield element("table", element("tbody", *rows))


def _fact(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
