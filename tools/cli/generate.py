"""``precast generate``: an encoder-decoder artifact's answers on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import precast
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput
from precast.tools.cli.console import errors_as_exit, out, print_json
from precast.tools.cli.encode import Artifact, Input, Json, Output, Texts, Truncate
from precast.tools.cli.texts import read_texts, write_records

_ARGUMENTS = ("inputs", "value", "parameters", "timeout", "return_exceptions", "logits_processor")
"""Of the engine's methods; no parameters of generation, or none that JSON can say."""
_EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Generation (the checkpoint's own defaults)")


Stream = Annotated[bool, typer.Option("--stream", help="Print one text's answer as it grows.")]
Logprobs = Annotated[bool, typer.Option("--logprobs", help="With --json or --output: of each token.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds after which a text is given up.")]
Beams = Annotated[int | None, _option("Beam search over so many; 1 for none.")]
MaxNew = Annotated[int | None, _option("Most tokens of an answer.")]
MinNew = Annotated[int | None, _option("Fewest tokens of an answer.")]
DoSample = Annotated[bool | None, _option("Draw tokens.", "--do-sample/--no-do-sample")]
Temperature = Annotated[float | None, _option("Divides the logits of drawn tokens.")]
TopK = Annotated[int | None, _option("Draw among so many; 0 for all.")]
TopP = Annotated[float | None, _option("Draw among the likeliest that have this probability together.")]
Seed = Annotated[int | None, _option("Of drawn tokens.")]
LengthPenalty = Annotated[float | None, _option("Power of the length that divides a beam's score.")]
EarlyStopping = Annotated[str | None, _option("Of beams: true, false or never.")]
NoRepeat = Annotated[int | None, _option("No n-gram of this size comes twice.")]
Penalty = Annotated[float | None, _option("Divides the scores of tokens that were there before.")]
Returned = Annotated[int | None, _option("BatchResult for each text, of beams or drawn.")]
SrcLang = Annotated[str | None, _option("The text's language, as the tokenizer names it.")]
TgtLang = Annotated[str | None, _option("The answer's language.")]
Prefix = Annotated[str | None, _option("A text that the answer shall begin with.")]
Set = Annotated[
    list[str] | None, _option("NAME=JSON: any other supported parameter; repeatable; null for none.", "--set")
]


def generate_command(
    artifact: Artifact,
    texts: Texts = None,
    source: Input = None,
    output: Output = None,
    stream: Stream = False,
    logprobs: Logprobs = False,
    timeout: Timeout = None,
    truncate: Truncate = True,
    num_beams: Beams = None,
    max_new_tokens: MaxNew = None,
    min_new_tokens: MinNew = None,
    do_sample: DoSample = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    length_penalty: LengthPenalty = None,
    early_stopping: EarlyStopping = None,
    no_repeat_ngram_size: NoRepeat = None,
    repetition_penalty: Penalty = None,
    num_return_sequences: Returned = None,
    src_lang: SrcLang = None,
    tgt_lang: TgtLang = None,
    target_prefix: Prefix = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Translate, summarize, answer: a target for each text. Parameters have Hugging Face's names."""
    given = {
        "truncate": truncate, "num_beams": num_beams, "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens, "do_sample": do_sample, "temperature": temperature, "top_k": top_k,
        "top_p": top_p, "seed": seed, "length_penalty": length_penalty,
        "early_stopping": _early_stopping(early_stopping), "no_repeat_ngram_size": no_repeat_ngram_size,
        "repetition_penalty": repetition_penalty, "num_return_sequences": num_return_sequences,
        "src_lang": src_lang, "tgt_lang": tgt_lang, "target_prefix": target_prefix,
    }  # fmt: skip
    # None would take back a default of the checkpoint.
    named = {name: value for name, value in given.items() if value is not None}
    options = named | _settings(settings or (), named)
    if stream and (as_json or output is not None or logprobs):
        raise typer.BadParameter("--stream prints text; it goes without --json, --output and --logprobs")
    wanted = read_texts(texts, source)
    if stream and len(wanted) != 1:
        raise typer.BadParameter(f"--stream takes one text, found {len(wanted)}")
    with errors_as_exit(as_json), precast.Seq2Seq.load(artifact) as engine:
        if stream:
            _print_pieces(engine.stream(wanted[0], timeout=timeout, **options))
            return
        answers = engine.generate(wanted, timeout=timeout, **options)
    _show(wanted, answers, output, as_json, logprobs)


def _early_stopping(given: str | None) -> bool | str | None:
    if given is None:
        return None
    if given not in _EARLY_STOPPING:
        raise typer.BadParameter(f"--early-stopping must be true, false or never, found {given!r}")
    return _EARLY_STOPPING[given]


def _settings(given: Sequence[str], named: dict[str, Any]) -> dict[str, Any]:
    """What ``--set`` says. The engine knows which names there are."""
    found: dict[str, Any] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--set takes NAME=JSON, found {setting!r}")
        if name in _ARGUMENTS or name in found or name in named.keys() - {"truncate"}:
            raise typer.BadParameter(f"--set cannot say {name}: it is no parameter, or is given already")
        try:
            found[name] = json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"--set {name}: {value!r} is no JSON: {error}") from error
    return found


def _print_pieces(pieces: Iterable[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _show(
    texts: Sequence[str],
    answers: Sequence[GenerateOutput],
    output: Path | None,
    as_json: bool,
    logprobs: bool,
) -> None:
    records = [_record(text, answer, logprobs) for text, answer in zip(texts, answers, strict=True)]
    if output is not None:
        write_records(output, records)
    elif as_json:
        print_json(records)
    elif all(len(answer.sequences) == 1 for answer in answers):
        for answer in answers:
            sys.stdout.write(f"{answer.text}\n")
    else:
        table = Table("text", "score", "answer")
        for text, answer in zip(texts, answers, strict=True):
            for sequence in answer.sequences:
                table.add_row(escape(text), f"{sequence.score:.4f}", escape(str(sequence.text)))
        out.print(table)


def _record(text: str, answer: GenerateOutput, logprobs: bool) -> dict[str, Any]:
    return {
        "source": text,
        "truncated": answer.truncated,
        "timings": asdict(answer.timings),
        "sequences": [_sequence(one, logprobs) for one in answer.sequences],
    }


def _sequence(one: GeneratedSequence, logprobs: bool) -> dict[str, Any]:
    found = {
        "text": one.text,
        "token_ids": one.token_ids.tolist(),
        "score": one.score,
        "finish_reason": one.finish_reason,
        "prefix_length": one.prefix_length,
    }
    return found | ({"logprobs": one.logprobs.tolist()} if logprobs else {})
