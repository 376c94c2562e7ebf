"""``precast bench``: artifacts compared with other runtimes of the same checkpoint on this machine."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from precast.tools.bench import encoder_calls, fresh, generation_bench
from precast.tools.bench.bench_result import NAME, BenchResult, ContenderInfo, SkippedInfo, read
from precast.tools.bench.comparison import BenchError, Compared, describe, open_artifacts, shown_name
from precast.tools.bench.encoder_calls import Texts
from precast.tools.bench.interleave import ContenderExited, InterleavedProcesses
from precast.tools.bench.machine import cores
from precast.tools.bench.peers import hugging_face, precast_artifact
from precast.tools.bench.peers.contender import OURS, REFERENCE, Contender, Skipped, Subject
from precast.tools.bench.peers.registry import PEERS, gather
from precast.tools.bench.peers.work import EmbedIds, EmbedTexts, Generate, PeakMemory, Work, makers
from precast.tools.bench.report.page import page
from precast.tools.bench.results import described
from precast.tools.bench.texts import texts

FIRST_TEXT = "Cast ahead of time, assembled on site."


@dataclass(frozen=True)
class Options:
    """Options of a comparison.

    Attributes:
        artifacts: directories of artifacts compiled from one checkpoint.
        against: names of the peers.
        model: the checkpoint; by default the one that the artifacts name.
        name: name of the model in tables; by default the name of the checkpoint.
        texts: sets of texts by name; the built-in ones by default.
        rounds: number of measured rounds; medians are reported.
        threads: threads of each contender; all cores by default.
        batches: batch sizes for encoders, in texts.
        rest: seconds to wait before each call.
    """

    artifacts: tuple[Path, ...]
    against: tuple[str, ...] = tuple(PEERS)
    model: str | None = None
    name: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    rounds: int = 7
    threads: int | None = None
    batches: tuple[int, ...] = encoder_calls.BATCHES
    rest: float = 0.1

    def __post_init__(self) -> None:
        unknown = [name for name in self.against if name not in PEERS]
        if unknown:
            raise BenchError(f"--against knows {', '.join(PEERS)}; found {', '.join(unknown)}")
        for name, value in (("--rounds", self.rounds), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise BenchError(f"{name} must be at least 1, found {value}")
        empty = [name for name, texts_of_set in self.texts.items() if not texts_of_set]
        if empty:
            raise BenchError(f"{empty[0]} holds no text; expected one per line")


@dataclass(frozen=True)
class Participants:
    """The contenders that start, the phases of their cold starts, and the contenders that are skipped."""

    contenders: list[Contender]
    starts: dict[str, dict[str, float]]
    skipped: list[Skipped]


def run(options: Options, say: Callable[[str], None] = print) -> BenchResult:
    """Run the whole comparison and return its result.

    Args:
        options: what to compare.
        say: called with a line of progress.

    Raises:
        BenchError: the artifacts cannot be compared, or one of them fails.
        ArtifactError: an artifact cannot be loaded.
    """
    compared = open_artifacts(options.artifacts, options.model)
    threads = options.threads or cores()
    with tempfile.TemporaryDirectory() as folder:
        subject = describe(compared, options.model, threads, Path(folder))
        contenders, skipped = contenders_of(compared, subject, options.against)
        first = _first_work(compared, subject)
        participants = start_contenders(contenders, skipped, first, options.rounds, threads, say)
        try:
            content = _measure(participants, compared, subject, options, say)
        except ContenderExited as error:
            raise BenchError(f"{error}; exclude its peer with --against") from error
    content["model"] = options.name or shown_name(options.model or compared[0].manifest.model.name)
    return read(json.dumps(described(NAME, content)))


def write(result: BenchResult, output: Path | None, report: Path | None) -> list[Path]:
    """Write the result as JSON, as an HTML report or both; return the files written.

    Args:
        result: the result of ``run``.
        output: the JSON file to write.
        report: the HTML file to write.
    """
    contents = {output: result.model_dump_json(indent=2) + "\n", report: page(result)}
    written = [(path, content) for path, content in contents.items() if path is not None]
    for path, content in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    return [path for path, _ in written]


def contenders_of(
    compared: Sequence[Compared], subject: Subject, against: Sequence[str]
) -> tuple[list[Contender], list[Skipped]]:
    """Return the artifacts, then HF fp32, the reference that always takes part, then the other peers."""
    ours = [precast_artifact.contender(one.path, one.name, one.manifest, subject.threads) for one in compared]
    peers, skipped = gather(against, subject)
    reference = [peer for peer in hugging_face.contenders(subject) if peer.name == REFERENCE]
    return [*ours, *reference, *(peer for peer in peers if peer.name != REFERENCE)], skipped


def _first_work(compared: Sequence[Compared], subject: Subject) -> Work:
    """Return the work that measures a cold start."""
    if subject.task == "generate":
        return Generate(generation_bench.first_job(compared))
    return EmbedTexts(([FIRST_TEXT],))


def start_contenders(
    contenders: Sequence[Contender],
    skipped: Sequence[Skipped],
    first: Work,
    rounds: int,
    threads: int,
    say: Callable[[str], None],
) -> Participants:
    """Measure cold starts in interleaved rounds; a peer that fails is skipped with its error as reason."""
    started, unavailable = list(contenders), list(skipped)
    taken: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
    for one in contenders:
        say(f"{one.name}: prepare and start")
        try:
            fresh.prepare(one)
            fresh.start(one, first, threads)  # warmup: brings all files into the page cache
        except fresh.FreshProcessError as error:
            if one.peer == OURS or one.name == REFERENCE:
                raise BenchError(f"{one.name} fails: {error}") from error
            started.remove(one)
            unavailable.append(Skipped(one.name, str(error)))
    for number in range(rounds):
        say(f"cold start, round {number + 1} of {rounds}")
        for one in started:
            taken[one.name].append(fresh.start(one, first, threads))
    starts = {
        one.name: {
            phase: round(statistics.median(run[phase] for run in taken[one.name]), 4)
            for phase in fresh.PHASES
        }
        for one in started
    }
    return Participants(started, starts, unavailable)


def _measure(
    participants: Participants,
    compared: Sequence[Compared],
    subject: Subject,
    options: Options,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return everything that is measured in interleaved rounds, as JSON."""
    with InterleavedProcesses[Work, Any](
        makers(participants.contenders, subject.threads), options.rest
    ) as processes:
        if subject.task == "generate":
            figures = generation_bench.figures(processes, compared, options.rounds, say)
        else:
            figures = _encoder_figures(processes, participants, compared, options, say)
        peak_memory = processes.outputs(PeakMemory())
    if subject.task == "generate":
        figures["arrivals"] = generation_bench.arrivals(compared, options.rounds, subject.threads, say)
    once = figures.pop("once")
    contenders = [
        ContenderInfo(
            name=one.name, peer=one.peer, precision=one.precision, cold_start_s=participants.starts[one.name],
            peak_memory_bytes=peak_memory[one.name], **once[one.name],
        )
        for one in participants.contenders if one.name in peak_memory
    ]  # fmt: skip
    return {
        "task": subject.task,
        "rounds": options.rounds,
        "threads": subject.threads,
        "contenders": [one.model_dump() for one in contenders],
        "skipped": [SkippedInfo(**asdict(one)).model_dump() for one in participants.skipped],
        **figures,
    }


def _encoder_figures(
    processes: InterleavedProcesses[Work, Any],
    participants: Participants,
    compared: Sequence[Compared],
    options: Options,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return ``texts``, ``rows``, empty ``arrivals``, and ``once`` with the facts of each contender."""
    ours = [one.name for one in compared]
    given = _read(compared, options)
    theirs = [one for one in participants.contenders if one.name not in (REFERENCE, *ours)]
    exact = [one.name for one in theirs if one.precision == "fp32"]
    mixed = max(given, key=lambda one: len(set(map(len, one.ids))))
    outputs = processes.outputs(EmbedIds((mixed.ids[: options.batches[-1]],)))
    for name, reason in encoder_calls.find_disagreeing(outputs, exact).items():
        processes.remove(name)
        participants.skipped.append(Skipped(name, reason))
        del outputs[name]
    rows, tokenizing = [], {}
    for one in given:
        say(f"{one.name} texts")
        rows += encoder_calls.measure(processes, one, options.rounds, ours)
        tokenizing[one.name] = encoder_calls.tokenization(processes, one, options.rounds)
    return {
        "texts": [one.info().model_dump() for one in given],
        "rows": [row.model_dump() for row in rows],
        "arrivals": [],
        "once": {
            name: {
                "tokenization_ms": {kind: times[name] for kind, times in tokenizing.items()},
                "first_token_ms": None,
            }
            for name in outputs
        },
    }


def _read(compared: Sequence[Compared], options: Options) -> list[Texts]:
    """Return the texts and their token ids, tokenized by the artifact with the smallest ``max_length``."""
    shortest = min(compared, key=lambda one: getattr(one.manifest.limits, "max_length", 0))
    tokenizer = precast_artifact.text_tokenizer(shortest.path, shortest.manifest)
    sets = options.texts or {kind: texts(kind) for kind in ("short", "mixed", "long")}
    return [
        Texts(name, found, precast_artifact.token_ids(tokenizer, found), options.batches)
        for name, found in sets.items()
    ]
