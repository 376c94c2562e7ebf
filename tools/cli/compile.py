"""``precast compile`` and ``precast verify``: the commands that need transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from precast.compiler.progress import ProgressEvent
from precast.tools.cli.console import err, errors_as_exit, out, print_json
from precast.tools.cli.show import parity_line

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def compile_command(
    model: Annotated[str, typer.Argument(help="A local directory or a hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the artifact.")],
    task: Annotated[
        str, typer.Option(help="auto, embed, classify, rerank, token-classify, hidden or generate.")
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or cuda:sm_90 to build for a GPU that is not here.")
    ] = "cpu",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or, on cuda, fp16.")] = "fp32",
    quantize: Annotated[
        str | None, typer.Option(help="int8: weights of linear layers in eight bits, on a cpu.")
    ] = None,
    backend: Annotated[str, typer.Option(help="inductor, or reference: portable and slow.")] = "inductor",
    max_length: Annotated[int | None, typer.Option(help="Tokens of one input, or of one source.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of a packed batch.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Inputs of a packed batch.")] = None,
    max_target_length: Annotated[
        int | None, typer.Option(help="For generate: positions of one answer, its start token included.")
    ] = None,
    max_num_seqs: Annotated[
        int, typer.Option(help="For generate: rows decoded side by side; a request has one a beam.")
    ] = 64,
    workload: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of input lengths in tokens, to fit the buckets to: a list, or "
            '{"lengths": {"12": 340}, "concurrency": {"1": 900, "32": 10}}.'
        ),
    ] = None,
    max_buckets: Annotated[
        int | None, typer.Option(help="With --workload: buckets of the buckets at most.")
    ] = None,
    pooling: Annotated[
        list[str] | None, typer.Option(help="Pooling for embed, in place of the checkpoint's; repeatable.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id.")] = None,
    prepack: Annotated[
        bool, typer.Option("--prepack/--no-prepack", help="Lay weights out for this CPU, in the graph.")
    ] = True,
    autotune: Annotated[
        bool | None,
        typer.Option("--autotune/--no-autotune", help="Search for the fastest matrix multiplications."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with Hugging Face before publishing.")
    ] = True,
    check_speed: Annotated[
        bool,
        typer.Option(
            "--check-speed/--no-check-speed", help="With --quantize: refuse it unless it is faster here."
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a Hugging Face checkpoint to an artifact."""
    with errors_as_exit(as_json):
        from precast.compiler.options import CompileOptions
        from precast.compiler.pipeline import run

        options = CompileOptions(
            model=model, output=output, task=cast(Any, task), device=device, dtype=cast(Any, dtype),
            quantize=cast(Any, quantize),
            backend=cast(Any, backend),
            max_length=max_length, max_tokens=max_tokens, max_batch=max_batch,
            max_target_length=max_target_length, max_num_seqs=max_num_seqs, workload=workload, max_buckets=max_buckets,
            pooling=tuple(pooling) if pooling else None, revision=revision, prepack=prepack,
            autotune=autotune, verify=verify, check_speed=check_speed, overwrite=overwrite,
        )  # fmt: skip
        with _steps() as progress:
            result = run(options, progress)
    if as_json:
        print_json(
            {
                "artifact": str(output),
                "seconds": result.seconds,
                "from_cache": result.from_cache,
                "parity": result.manifest.parity.model_dump() if result.manifest.parity else None,
                "notes": result.manifest.notes,
            }
        )
        return
    for note in result.manifest.notes:
        err.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    said = f"{output}: task {result.manifest.model.task}, {parity_line(result.manifest)}"
    out.print(said, highlight=False, soft_wrap=True)


def verify_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the artifact.")],
    against: Annotated[str, typer.Option(help="The checkpoint that it was compiled from.")],
    as_json: Json = False,
) -> None:
    """Load an artifact and compare its answers with Hugging Face's."""
    with errors_as_exit(as_json):
        import precast
        from precast.compiler.frontend.checkpoint import open_checkpoint

        with precast.load(artifact) as engine:
            parity = _check(engine, open_checkpoint(against))
            manifest = engine.manifest.model_copy(update={"parity": parity})
    if as_json:
        print_json(parity.model_dump())
    else:
        out.print(f"{artifact}: {parity_line(manifest)}", highlight=False, soft_wrap=True)


def _check(engine: Any, checkpoint: Any) -> Any:
    """The parity check for the kind of engine."""
    from precast.compiler.tasks.registry import TASKS

    return TASKS[engine.manifest.model.task].check_parity(engine, checkpoint)


class _Seconds(ProgressColumn):
    """Elapsed seconds to a tenth; rich's own column rounds most steps to zero."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{elapsed or 0:6.1f} s", style="cyan")


@contextmanager
def _steps() -> Iterator[Any]:
    """A line for each stage and each graph, with the time it took."""
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), _Seconds())
    with Progress(*columns, console=err) as progress:
        lines: dict[tuple[str, str | None], TaskID] = {}

        def show(event: ProgressEvent) -> None:
            key = (event.stage, event.graph)
            if key not in lines:
                lines[key] = progress.add_task(_described(event), total=1)
            if event.finished:
                progress.update(lines[key], completed=1, description=_described(event))

        yield show


def _described(event: ProgressEvent) -> str:
    if event.graph is None:
        return escape(event.stage)
    state = ", from the cache" if event.from_cache else ""
    remaining = f", {event.remaining} remaining" if event.finished and event.remaining else ""
    return escape(f"  {event.graph}{state}{remaining}")
