"""The compile pipeline: from a checkpoint to an artifact, one stage after the other."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from precast.artifacts.manifest import Manifest, ParityInfo
from precast.artifacts.writer import folder_info, publish, staging
from precast.compiler.buckets.select import can_profile, select_buckets
from precast.compiler.buckets.workload import Workload, read_workload
from precast.compiler.compile_graphs import compile_graphs
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.frontend.sentence_transformers import read_settings
from precast.compiler.graph import CompiledGraph
from precast.compiler.manifest import TOKENIZER_FILE, WEIGHTS_FILE, BucketSelection, Draft
from precast.compiler.measurements import Measurements, find_measurements, keep_measurements
from precast.compiler.options import CompileOptions
from precast.compiler.progress import Progress, Reporter, Stage
from precast.compiler.targets.registry import select_target
from precast.compiler.tasks.registry import TASKS, detect_task
from precast.compiler.tasks.task import Source
from precast.compiler.verify.artifact import compare_speed, verify_artifact


@dataclass(frozen=True)
class CompileResult:
    """The result of a compilation.

    Attributes:
        manifest: the artifact's manifest.
        seconds: seconds of each stage.
        from_cache: whether all graphs came from the cache.
    """

    manifest: Manifest
    seconds: dict[Stage, float]
    from_cache: bool


def run(options: CompileOptions, progress: Progress | None = None) -> CompileResult:
    """Compile a checkpoint to an artifact.

    Args:
        options: checkpoint, output directory and settings.
        progress: called with each ``ProgressEvent``.

    Raises:
        CompileError: the checkpoint cannot be compiled with these options; subclasses say why.
        ArtifactExistsError: something exists at the output path.
    """
    report = Reporter(progress)
    with staging(options.output, overwrite=options.overwrite) as folder, torch.no_grad():
        workload = None if options.workload is None else read_workload(options.workload)
        with report.stage(Stage.READ):
            source = read_source(options)
        draft = make_draft(options, source, folder, report)
        measured = measure(draft, workload, report)
        with report.stage(Stage.PUBLISH):
            manifest = draft.manifest(measured.selection, measured.parity, measured.notes)
            publish(folder, manifest, options.output)
    cached = all(one.from_cache for graph in draft.graphs for one in graph.variants)
    return CompileResult(manifest, report.seconds, cached)


def read_source(options: CompileOptions) -> Source:
    """Open a checkpoint and read everything except its weights: task, settings and tokenizer."""
    checkpoint = open_checkpoint(options.model, options.revision)
    task = detect_task(checkpoint) if options.task == "auto" else options.task
    settings = read_settings(checkpoint)
    return Source(checkpoint, task, settings, TASKS[task].read_tokenizer(checkpoint, settings))


def make_draft(options: CompileOptions, source: Source, folder: Path, report: Reporter) -> Draft:
    """Build the model, compile its graphs and write all files except the manifest."""
    target, task = select_target(options), TASKS[source.task]
    with report.stage(Stage.BUILD):
        model = task.build(source, target, options)
    with report.stage(Stage.COMPILE):
        graphs = compile_graphs(model.graphs, target, options, report)
    with report.stage(Stage.WRITE):
        _write_files(folder, graphs, source)
        files = folder_info(folder)
    notes = []
    if source.tokenizer is None:
        notes.append("the checkpoint has no tokenizer: the artifact takes token ids only")
    if model.dropped:
        notes.append(f"weights that this task does not use: {', '.join(model.dropped)}")
    return Draft(folder, options, target, task, source, model, graphs, files, tuple(notes))


def measure(draft: Draft, workload: Workload | None, report: Reporter) -> Measurements:
    """Profile the artifact and check its parity and speed, or return the cached results of an equal one.

    Raises:
        ParityError: its outputs are wrong.
        SpeedCheckError: it is quantized and no faster for it.
    """
    known = find_measurements(draft, workload)
    if known is not None:
        for stage in (Stage.PROFILE, Stage.PARITY, Stage.SPEED):
            report.skip(stage)
        return known
    with report.stage(Stage.PROFILE):
        selection = select_buckets(draft, workload)
    with report.stage(Stage.PARITY):
        parity, notes = check_parity(draft, selection)
    with report.stage(Stage.SPEED):
        notes += check_speed(draft, selection, workload, report)
    measured = Measurements(selection=selection, parity=parity, notes=notes)
    keep_measurements(draft, workload, measured)
    return measured


def check_parity(draft: Draft, selection: BucketSelection) -> tuple[ParityInfo | None, tuple[str, ...]]:
    """Load the artifact, compare its outputs with Hugging Face's, and return the result with notes."""
    if draft.options.verify:
        return verify_artifact(draft, draft.manifest(selection)), ()
    notes = ["parity with Hugging Face was not checked (--no-verify)"]
    if draft.options.architecture is not None:
        notes.append("built without a GPU: kernels are not tuned and the graphs never ran")
    return None, tuple(notes)


def check_speed(
    draft: Draft, selection: BucketSelection, workload: Workload | None, report: Reporter
) -> tuple[str, ...]:
    """Compile the unquantized model too and return a note on how much faster the quantized one is.

    Raises:
        SpeedCheckError: it is no faster on this machine.
    """
    options, folder = draft.options, draft.folder
    if options.quantize is None or not options.check_speed or not can_profile(draft):
        return ()
    with TemporaryDirectory(prefix=f"{folder.name}-plain-", dir=folder.parent) as plain_folder:
        plain = make_draft(replace(options, quantize=None), draft.source, Path(plain_folder), report)
        return (compare_speed((plain, select_buckets(plain, workload)), (draft, selection)),)


def _write_files(folder: Path, graphs: tuple[CompiledGraph, ...], source: Source) -> None:
    (folder / "graphs").mkdir()
    weights: dict[str, Tensor] = {}
    for graph in graphs:
        for name, path in graph.files().items():
            shutil.copyfile(path, folder / name)
        # A tensor that several graphs bind has the same name in all of them.
        weights |= graph.bound_weights()
    if weights:
        save_file(weights, folder / WEIGHTS_FILE)
    if source.tokenizer is not None:
        (folder / TOKENIZER_FILE).write_text(source.tokenizer.serialized, "utf-8")
        for name, text in source.tokenizer.extra_files.items():
            (folder / name).write_text(text, "utf-8")
