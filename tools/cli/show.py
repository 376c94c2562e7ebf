"""``precast inspect``: the manifest of an artifact as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from precast.artifacts.manifest import BuildInfo, Manifest
from precast.artifacts.reader import check_build, check_files, read_manifest
from precast.graphs.errors import PrecastError
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Buffer
from precast.tools.cli.console import errors_as_exit, out

_LAYERED = re.compile(r".+_\d+")


def inspect_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the artifact.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show an artifact's properties, verify its file hashes, and check whether it runs on this machine."""
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
    """Return the result of the parity check in one line."""
    parity = manifest.parity
    if parity is None:
        return "parity with Hugging Face not checked"
    return (
        f"parity over {parity.inputs} inputs: relative error {parity.max_relative_error:.1e} "
        f"(allowed {parity.allowed_relative_error:.0e}), cosine ≥ {parity.min_cosine:.6f} "
        f"(allowed {parity.allowed_cosine})"
    )


def _facts(manifest: Manifest) -> Table:
    model, build = manifest.model, manifest.build
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = {
        "model": f"{model.name}  ({model.family}, {model.parameters:,} parameters, "
        f"vocabulary {model.vocab_size:,})",
        "task": f"{model.task}  {_output(manifest)}",
        "built for": f"{build.device}, {build.architecture}, {_precision(build)}, backend {build.backend}",
        "built with": f"precast {build.precast}, torch {build.torch}, {_options(manifest)}",
        "instructions": ", ".join(_notable(build.instruction_sets)) or "none",
        "runs here": _runs_here(manifest),
        "limits": _limits(manifest),
        **_generation(manifest),
        "parity": parity_line(manifest),
    }
    for name, value in rows.items():
        table.add_row(f"[bold]{name}", value)
    return table


def _precision(build: BuildInfo) -> str:
    return build.dtype if build.quantization is None else f"{build.dtype} with {build.quantization} layers"


def _limits(manifest: Manifest) -> str:
    limits = manifest.limits
    if isinstance(limits, GenerateLimits):
        return (
            f"{limits.max_source_length} tokens per source, {limits.max_target_length} positions per target, "
            f"{limits.max_num_seqs} sequences; {limits.max_tokens} tokens and {limits.max_batch} sources per "
            f"encoder batch"
        )
    batch = f"{limits.max_tokens} tokens and {limits.max_batch} inputs per batch"
    return f"{limits.max_length} tokens per input, {batch}"


def _generation(manifest: Manifest) -> dict[str, str]:
    """Return the default generation parameters and languages; nothing for an encoder."""
    info = manifest.output
    if info.kind != "generate":
        return {}
    stated = info.defaults.model_dump(exclude_none=True)
    shown = ", ".join(f"{name}={_short(value)}" for name, value in stated.items())
    rows = {"generation defaults": escape(shown or "those of Hugging Face")}
    languages = manifest.tokenization.languages
    if languages is not None:
        rows["languages"] = f"{len(languages.codes)}, default {languages.default or 'none'}"
    return rows


def _short(value: object) -> str:
    """Return a value as text, or its length if it is a long list, such as suppressed tokens."""
    return f"{len(value)} entries" if isinstance(value, tuple) and len(value) > 4 else str(value)


def _output(manifest: Manifest) -> str:
    info = manifest.output
    if info.kind == "generate":
        kv = info.self_kv
        return (
            f"vocabulary {info.vocab_size:,}; KV cache of {kv.layers} layers, {kv.heads} heads, "
            f"head size {kv.head_dim}, {kv.dtype}"
        )
    if info.kind == "embed":
        normalized = ", normalized" if info.normalize else ""
        prompts = f", prompts {sorted(info.prompts)}" if info.prompts else ""
        return f"{info.size} dimensions, {' + '.join(info.pooling)} pooling{normalized}{prompts}"
    if info.kind == "classify":
        return f"{len(info.labels)} labels: {', '.join(info.labels[:6])}"
    return f"{info.size} dimensions per token"


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
    table = Table("graph", "inputs", "output", "buckets", "weights")
    for name, graph in manifest.graphs.items():
        inputs, outputs = map(_buffers, (graph.signature.inputs, graph.signature.outputs))
        buckets = f"{graph.buckets.axis}: {', '.join(map(str, graph.buckets.sizes))}"
        if graph.costs is not None:
            buckets += f"\nms: {', '.join(f'{1000 * seconds:.3g}' for seconds in graph.costs)}"
        weights = f"{graph.weights}" + (f", {_size(graph.prepacked_bytes)}" if graph.prepacked_bytes else "")
        table.add_row(name, inputs, outputs, buckets, weights)
    return table


def _buffers(buffers: tuple[Buffer, ...]) -> str:
    """Return one line for each buffer; the bracket is escaped because rich parses it as markup."""
    return "\n".join(
        f"{name} \\[{', '.join(map(str, shape))}] {dtype}" for name, shape, dtype in _merged(buffers)
    )


def _merged(buffers: tuple[Buffer, ...]) -> Iterator[tuple[str, tuple[int | str, ...], str]]:
    """Yield names, shapes and dtypes, with the buffers of all layers merged into one entry."""
    for key, group in groupby(buffers, lambda b: (_LAYERED.fullmatch(b.name) is not None, b.shape, b.dtype)):
        (layered, shape, dtype), members = key, [buffer.name for buffer in group]
        names = [f"{members[0]} … {members[-1]}"] if layered and len(members) > 1 else members
        yield from ((name, shape, dtype) for name in names)


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
