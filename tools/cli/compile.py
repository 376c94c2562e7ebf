"""``precast compile`` and ``precast verify``: the commands that need transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from precast.artifacts.manifest import Manifest
from precast.compiler.options import CompileOptions
from precast.compiler.progress import ProgressEvent
from precast.tools.cli.console import err, errors_as_exit, out, print_json, quiet_libraries
from precast.tools.cli.options import options_from
from precast.tools.cli.show import parity_line

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@options_from(CompileOptions, arguments=("model",))
def compile_command(make_options: Callable[[], CompileOptions], as_json: Json = False) -> None:
    """Compile a Hugging Face checkpoint to an artifact."""
    with errors_as_exit(as_json):
        compile_model(make_options(), as_json=as_json)


def compile_model(options: CompileOptions, *, as_json: bool = False) -> Manifest:
    """Compile a model and print its progress and a summary; return the manifest.

    Args:
        options: what to compile.
        as_json: print the summary as JSON.

    Raises:
        CompileError: the checkpoint cannot be compiled with these options.
    """
    from precast.compiler.pipeline import run

    with quiet_libraries(), _progress() as report:
        result = run(options, report)
    manifest = result.manifest
    if as_json:
        print_json(
            {
                "artifact": str(options.output),
                "seconds": result.seconds,
                "from_cache": result.from_cache,
                "parity": manifest.parity.model_dump() if manifest.parity else None,
                "notes": manifest.notes,
            }
        )
        return manifest
    for note in manifest.notes:
        err.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    summary = f"{options.output}: task {manifest.model.task}, {parity_line(manifest)}"
    out.print(summary, highlight=False, soft_wrap=True)
    return manifest


def verify_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the artifact.")],
    against: Annotated[str, typer.Option(help="Checkpoint the artifact was compiled from.")],
    as_json: Json = False,
) -> None:
    """Load an artifact and compare its outputs with Hugging Face."""
    with errors_as_exit(as_json):
        import precast
        from precast.compiler.frontend.checkpoint import open_checkpoint
        from precast.compiler.tasks.registry import TASKS

        with quiet_libraries(), precast.load(artifact) as engine:
            task = TASKS[engine.manifest.model.task]
            parity = task.check_parity(engine, open_checkpoint(against))
            manifest = engine.manifest.model_copy(update={"parity": parity})
    if as_json:
        print_json(parity.model_dump())
    else:
        out.print(f"{artifact}: {parity_line(manifest)}", highlight=False, soft_wrap=True)


class _Seconds(ProgressColumn):
    """Elapsed seconds to one decimal place; rich's own column rounds most steps to zero."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{elapsed or 0:6.1f} s", style="cyan")


@contextmanager
def _progress() -> Iterator[Callable[[ProgressEvent], None]]:
    """Show one line for each stage and each graph, with its elapsed time."""
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), _Seconds())
    with Progress(*columns, console=err) as progress:
        lines: dict[tuple[str, str | None], TaskID] = {}

        def show(event: ProgressEvent) -> None:
            key = (event.stage, event.graph)
            if key not in lines:
                lines[key] = progress.add_task(_description(event), total=1)
            if event.finished:
                progress.update(lines[key], completed=1, description=_description(event))

        yield show


def _description(event: ProgressEvent) -> str:
    if event.graph is None:
        return escape(event.stage)
    state = ", from the cache" if event.from_cache else ""
    remaining = f", {event.remaining} remaining" if event.finished and event.remaining else ""
    return escape(f"  {event.graph}{state}{remaining}")
