"""Checkpoint to artifact, as one list of steps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from precast.artifacts.manifest import Manifest
from precast.artifacts.writer import publish, staging
from precast.compiler.buckets.select import select_buckets, worth_measuring
from precast.compiler.buckets.workload import read_workload
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.frontend.sentence_transformers import read_settings
from precast.compiler.frontend.tokenizer import read_generation_tokenizer, read_tokenizer
from precast.compiler.graph import LoweredGraph, lower_graph
from precast.compiler.lowering.choice import select_backend
from precast.compiler.manifest import TOKENIZER_FILE, WEIGHTS_FILE, describe
from precast.compiler.models.build import detect_task
from precast.compiler.options import CompileOptions
from precast.compiler.tasks.encode import plan_encoder
from precast.compiler.tasks.generate import plan_generation
from precast.compiler.verify.speed import ask_encoder, ask_seq2seq, described, measure_speedup
from precast.compiler.work import Work
from precast.runtime.load import start_engine


def open_model(work: Work) -> None:
    options = work.options
    work.workload = None if options.workload is None else read_workload(options.workload)
    work.checkpoint = open_checkpoint(options.model, options.revision)
    work.task = detect_task(work.checkpoint) if options.task == "auto" else options.task
    work.settings = read_settings(work.checkpoint)
    if work.task == "generate":
        work.tokenizer = read_generation_tokenizer(work.checkpoint)
    else:
        work.tokenizer = read_tokenizer(work.checkpoint, lower_case=work.settings.do_lower_case)
    if work.tokenizer is None:
        work.notes.append("the checkpoint has no tokenizer: only token ids are taken")


def read_model(work: Work) -> None:
    if work.task == "generate":
        work.plan = plan_generation(work.options, work.checkpoint, work.tokenizer)
    else:
        work.plan = plan_encoder(work.options, work.task, work.checkpoint, work.settings, work.tokenizer)
    if work.plan.dropped:
        work.notes.append(f"not used by this task: {', '.join(work.plan.dropped)}")


def lower_graphs(work: Work) -> None:
    work.backend = select_backend(work.options)
    work.graphs = tuple(lower_graph(graph, work.options) for graph in work.plan.graphs)


def write_files(work: Work) -> None:
    (work.folder / "graphs").mkdir()
    for name, path in work.files.items():
        shutil.copyfile(path, work.folder / name)
    tensors = bound_weights(work.graphs)
    if tensors:
        save_file(tensors, work.folder / WEIGHTS_FILE)
    if work.tokenizer is not None:
        (work.folder / TOKENIZER_FILE).write_text(work.tokenizer.serialized, "utf-8")
        for name, text in work.tokenizer.extra_files.items():
            (work.folder / name).write_text(text, "utf-8")
    work.manifest = describe(work)


def bound_weights(graphs: Iterable[LoweredGraph]) -> dict[str, Tensor]:
    """What the graphs bind, by name. A tensor that several of them bind has one name in all."""
    tensors: dict[str, Tensor] = {}
    for graph in graphs:
        state = graph.plan.source.module.state_dict()
        tensors |= {name: state[name].detach().contiguous() for name in graph.constants}
    return tensors


def verify(work: Work) -> None:
    """Answer through the runtime, from the files as they will be loaded, and compare with HF."""
    if not work.options.verify:
        work.notes.append("parity with Hugging Face was not checked (--no-verify)")
        if work.options.architecture is not None:
            work.notes.append("built without a GPU: kernels are not tuned and the graphs never ran")
        work.manifest = describe(work)
        return
    with start_engine(work.folder, work.manifest) as engine:
        parity = work.plan.check(engine, work.checkpoint)
    work.manifest = describe(work, parity)


def check_speed(work: Work) -> None:
    """Compare eight bits with the same model without them."""
    options = work.options
    if options.quantize is None or not options.check_speed or not worth_measuring(work):
        return
    with TemporaryDirectory(prefix=f"{work.folder.name}-plain-", dir=work.folder.parent) as folder:
        plain = Work(replace(options, quantize=None), Path(folder))
        for step in (open_model, read_model, lower_graphs, write_files, select_buckets):
            step(plain)
        usual, quantized = (partial(start_engine, one.folder, one.manifest) for one in (plain, work))
        gain = measure_speedup(usual, quantized, ask_seq2seq if work.task == "generate" else ask_encoder)
    work.notes.append(described(gain, options.dtype))
    work.manifest = work.manifest.model_copy(update={"notes": tuple(work.notes)})


def put_in_place(work: Work) -> None:
    publish(work.folder, work.manifest, work.options.output)


STEPS: tuple[tuple[str, Callable[[Work], None]], ...] = (
    ("open the checkpoint", open_model),
    ("read the model", read_model),
    ("compile the graphs", lower_graphs),
    ("write the files", write_files),
    ("choose the graph_buckets", select_buckets),
    ("check parity with Hugging Face", verify),
    ("check the speed", check_speed),
    ("put the artifact in place", put_in_place),
)

Reporter = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Result:
    """What was written, the seconds of each step, and whether the graphs were compiled before."""

    manifest: Manifest
    seconds: dict[str, float]
    from_cache: bool


def run(options: CompileOptions, report: Reporter | None = None) -> Result:
    """Run every step.

    Args:
        options: what to compile.
        report: called with each step's name, gives a context to run it in; for showing progress.
    """
    seconds: dict[str, float] = {}
    with staging(options.output, overwrite=options.overwrite) as folder, torch.no_grad():
        work = Work(options, folder)
        for name, step in STEPS:
            started = time.perf_counter()
            with report(name) if report else nullcontext():
                step(work)
            seconds[name] = time.perf_counter() - started
    return Result(work.manifest, seconds, work.from_cache)
