"""``precast inspect``: an artifact as a person wants to see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from precast.artifacts.manifest import Manifest
from precast.artifacts.reader import check_build, check_files, read_manifest
from precast.graphs.errors import PrecastError
from precast.graphs.signature import Buffer
from precast.tools.cli.console import errors_as_exit, out


def inspect_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the artifact.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show what an artifact is, whether its files are whole, and whether it runs here."""
    with errors_as_exit(as_json):
        manifest = read_manifest(artifact)
        check_files(artifact, manifest)
    if as_json:
        out.print_json(json.dumps(manifest.model_dump(mode="json")))
        return
    for table in (_facts(manifest), _graphs(manifest), _files(manifest)):
        out.print(table)
    for note in manifest.notes:
        out.print(f"note: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)


def parity_line(manifest: Manifest) -> str:
    """The parity check in one line."""
    parity = manifest.parity
    if parity is None:
        return "parity with Hugging Face not checked"
    return (
        f"parity over {parity.inputs} inputs: relative error {parity.max_relative_error:.1e} "
        f"(allowed {parity.allowed_relative_error:.0e}), cosine ≥ {parity.min_cosine:.6f} "
        f"(allowed {parity.allowed_cosine})"
    )


def _facts(manifest: Manifest) -> Table:
    model, build, limits = manifest.model, manifest.build, manifest.limits
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = {
        "model": f"{model.name}  ({model.family}, {model.parameters:,} parameters, "
        f"vocabulary {model.vocab_size:,})",
        "task": f"{model.task}  {_answer(manifest)}",
        "built for": f"{build.device}, {build.architecture}, {build.dtype}, backend {build.backend}",
        "built with": f"precast {build.precast}, torch {build.torch}, {_options(manifest)}",
        "instructions": ", ".join(_notable(build.instruction_sets)) or "none",
        "runs here": _runs_here(manifest),
        "limits": f"{limits.max_length} tokens an input, {limits.max_tokens} tokens and "
        f"{limits.max_batch} inputs a batch",
        "parity": parity_line(manifest),
    }
    for name, value in rows.items():
        table.add_row(f"[bold]{name}", value)
    return table


def _answer(manifest: Manifest) -> str:
    info = manifest.answer
    if info.kind == "embed":
        normalized = ", normalized" if info.normalize else ""
        prompts = f", prompts {sorted(info.prompts)}" if info.prompts else ""
        return f"{info.size} dimensions, {' + '.join(info.pooling)} pooling{normalized}{prompts}"
    if info.kind == "classify":
        return f"{len(info.labels)} labels: {', '.join(info.labels[:6])}"
    return f"{info.size} dimensions a token"


def _options(manifest: Manifest) -> str:
    return ", ".join(f"{name}={value}" for name, value in manifest.build.options.items()) or "no options"


def _notable(flags: tuple[str, ...]) -> list[str]:
    wanted = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2", "fma", "sve", "asimd", "bf16")
    return [flag for flag in wanted if flag in flags]


def _runs_here(manifest: Manifest) -> str:
    try:
        check_build(manifest.build)
    except PrecastError as error:
        return f"[red]no[/]: {error}"
    return "[green]yes"


def _graphs(manifest: Manifest) -> Table:
    table = Table("graph", "inputs", "output", "ladder", "weights")
    for name, graph in manifest.graphs.items():
        inputs, outputs = map(_buffers, (graph.signature.inputs, graph.signature.outputs))
        ladder = f"{graph.ladder.axis}: {', '.join(map(str, graph.ladder.buckets))}"
        weights = f"{graph.weights}" + (f", {_size(graph.prepacked_bytes)}" if graph.prepacked_bytes else "")
        table.add_row(name, inputs, outputs, ladder, weights)
    return table


def _buffers(buffers: tuple[Buffer, ...]) -> str:
    """A line for each buffer; the bracket is escaped because rich reads it as markup."""
    return "\n".join(f"{b.name} \\[{', '.join(map(str, b.shape))}] {b.dtype}" for b in buffers)


def _files(manifest: Manifest) -> Table:
    table = Table("file", "size", "SHA-256")
    for name, info in manifest.files.items():
        table.add_row(name, _size(info.bytes), info.sha256)
    return table


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}" if unit != "B" else f"{count} B"
        size /= 1024
    return f"{size:.1f} GiB"
