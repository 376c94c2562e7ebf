"""``precast generate``: the outputs of an encoder-decoder artifact on the command line."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import precast
from precast.graphs.generation_parameters import PARAMS, SCALARS, Kind, Param
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput
from precast.tools.cli.console import errors_as_exit, out, print_json
from precast.tools.cli.encode import Artifact, Input, Json, Output, Texts, Truncate
from precast.tools.cli.texts import read_texts, write_records

_ARGUMENTS = ("inputs", "value", "parameters", "timeout", "return_exceptions", "logits_processor")
"""Arguments of the engine's methods that are no parameters of generation, or that JSON cannot express."""
_EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
_TYPES: Mapping[Kind, Any] = {
    "integer": int | None,
    "number": float | None,
    "flag": bool | None,
    "early_stopping": str | None,
    "token": int | None,
}
_PANEL = "Generation (defaults are the checkpoint's)"


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL)


def _option_of(param: Param) -> inspect.Parameter:
    """The option for a parameter of generation; None if it is not given."""
    flag = param.name.replace("_", "-")
    names = (f"--{flag}/--no-{flag}",) if param.kind == "flag" else ()
    option = typer.Option(None, *names, help=param.help, rich_help_panel=_PANEL)
    return inspect.Parameter(
        param.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=_TYPES[param.kind]
    )


def _with_scalar_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` an option for every scalar in the table of parameters, instead of its ``**``."""
    options = [_option_of(param) for param in PARAMS if param.kind in SCALARS]
    signature = inspect.signature(command, eval_str=True)
    fixed = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*fixed, *options])  # type: ignore[attr-defined]
    command.__annotations__ |= {option.name: option.annotation for option in options}
    return command


Stream = Annotated[bool, typer.Option("--stream", help="Print the output for one text as it grows.")]
Logprobs = Annotated[
    bool, typer.Option("--logprobs", help="With --json or --output: log-probabilities of each token.")
]
Timeout = Annotated[float | None, typer.Option(help="Seconds until a text fails with a timeout.")]
SrcLang = Annotated[str | None, _option("Language of the text, as the tokenizer names it.")]
TgtLang = Annotated[str | None, _option("Language of the output.")]
Prefix = Annotated[str | None, _option("Text that the output begins with.")]
Set = Annotated[
    list[str] | None, _option("NAME=JSON: any other parameter; repeatable; null for none.", "--set")
]


@_with_scalar_options
def generate_command(
    artifact: Artifact,
    texts: Texts = None,
    source: Input = None,
    output: Output = None,
    stream: Stream = False,
    logprobs: Logprobs = False,
    timeout: Timeout = None,
    truncate: Truncate = True,
    as_json: Json = False,
    src_lang: SrcLang = None,
    tgt_lang: TgtLang = None,
    target_prefix: Prefix = None,
    settings: Set = None,
    **scalars: Any,
) -> None:
    """Translate or summarize: a target for each text. Parameters have Hugging Face's names."""
    scalars["early_stopping"] = _early_stopping(scalars["early_stopping"])
    languages = {"src_lang": src_lang, "tgt_lang": tgt_lang, "target_prefix": target_prefix}
    # None would cancel a default of the checkpoint.
    stated = {name: value for name, value in {**languages, **scalars}.items() if value is not None}
    options = {"truncate": truncate, **stated, **_settings(settings or (), stated)}
    if stream and (as_json or output is not None or logprobs):
        raise typer.BadParameter("--stream prints text; it goes without --json, --output and --logprobs")
    wanted = read_texts(texts, source)
    if stream and len(wanted) != 1:
        raise typer.BadParameter(f"--stream takes one text, found {len(wanted)}")
    with errors_as_exit(as_json), precast.Seq2Seq.load(artifact) as engine:
        if stream:
            _print_pieces(engine.stream(wanted[0], timeout=timeout, **options))
            return
        outputs = engine.generate(wanted, timeout=timeout, **options)
    _show(wanted, outputs, output, as_json, logprobs)


def _early_stopping(given: str | None) -> bool | str | None:
    if given is None:
        return None
    if given not in _EARLY_STOPPING:
        raise typer.BadParameter(f"--early-stopping must be true, false or never, found {given!r}")
    return _EARLY_STOPPING[given]


def _settings(given: Sequence[str], stated: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``--set``. The engine knows which names there are."""
    values: dict[str, Any] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--set takes NAME=JSON, found {setting!r}")
        if name in _ARGUMENTS or name in values or name in stated:
            raise typer.BadParameter(f"--set cannot set {name}: it is no parameter, or is given already")
        try:
            values[name] = json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"--set {name}: {value!r} is no JSON: {error}") from error
    return values


def _print_pieces(pieces: Iterable[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _show(
    texts: Sequence[str],
    outputs: Sequence[GenerateOutput],
    path: Path | None,
    as_json: bool,
    logprobs: bool,
) -> None:
    records = [_record(text, output, logprobs) for text, output in zip(texts, outputs, strict=True)]
    if path is not None:
        write_records(path, records)
    elif as_json:
        print_json(records)
    elif all(len(output.sequences) == 1 for output in outputs):
        for output in outputs:
            sys.stdout.write(f"{output.text}\n")
    else:
        table = Table("text", "score", "output")
        for text, output in zip(texts, outputs, strict=True):
            for sequence in output.sequences:
                table.add_row(escape(text), f"{sequence.score:.4f}", escape(str(sequence.text)))
        out.print(table)


def _record(text: str, output: GenerateOutput, logprobs: bool) -> dict[str, Any]:
    return {
        "source": text,
        "truncated": output.truncated,
        "timings": asdict(output.timings),
        "sequences": [_sequence(sequence, logprobs) for sequence in output.sequences],
    }


def _sequence(sequence: GeneratedSequence, logprobs: bool) -> dict[str, Any]:
    record = {
        "text": sequence.text,
        "token_ids": sequence.token_ids.tolist(),
        "score": sequence.score,
        "finish_reason": sequence.finish_reason,
        "prefix_length": sequence.prefix_length,
    }
    return record | ({"logprobs": sequence.logprobs.tolist()} if logprobs else {})
