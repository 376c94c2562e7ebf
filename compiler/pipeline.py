"""Checkpoint to artifact, as one list of steps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

import precast
from precast.artifacts import host
from precast.artifacts.manifest import (
    BuildInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    ParityInfo,
    TokenizationInfo,
)
from precast.artifacts.writer import folder_info, publish, staging
from precast.compiler.answers import describe_answer
from precast.compiler.build import BuiltModel, describe_model, fill
from precast.compiler.cache import cached_lower
from precast.compiler.checkpoint import Checkpoint, open_checkpoint
from precast.compiler.limits import choose_limits
from precast.compiler.lowering.backend import Backend, Lowered
from precast.compiler.lowering.inductor import inductor_cpu
from precast.compiler.lowering.reference import reference
from precast.compiler.options import CompileOptions
from precast.compiler.parity import check_parity
from precast.compiler.sentence_transformers import SentenceSettings, read_settings
from precast.compiler.tokenizer import TokenizerFacts, read_tokenizer
from precast.graphs.encode import Limits, encode_output, encode_signature
from precast.graphs.signature import Signature
from precast.runtime.loading import start_engine


@dataclass
class Work:
    """What the steps hand on to one another."""

    options: CompileOptions
    folder: Path
    checkpoint: Checkpoint = field(init=False)
    settings: SentenceSettings = field(init=False)
    tokenizer: TokenizerFacts | None = field(init=False)
    built: BuiltModel = field(init=False)
    limits: Limits = field(init=False)
    signature: Signature = field(init=False)
    backend: Backend = field(init=False)
    lowered: Lowered = field(init=False)
    from_cache: bool = False
    manifest: Manifest = field(init=False)
    notes: list[str] = field(default_factory=list)


def open_model(work: Work) -> None:
    work.checkpoint = open_checkpoint(work.options.model, work.options.revision)
    work.settings = read_settings(work.checkpoint)
    work.tokenizer = read_tokenizer(work.checkpoint, lower_case=work.settings.do_lower_case)
    if work.tokenizer is None:
        work.notes.append("the checkpoint has no tokenizer: only token ids are taken")


def read_model(work: Work) -> None:
    options = work.options
    described = describe_model(work.checkpoint, options.task, options.pooling)
    spec = described.spec
    work.limits = choose_limits(options, spec, work.checkpoint, work.settings, work.tokenizer)
    work.built = fill(work.checkpoint, described, work.limits.max_length, options.torch_dtype)
    if work.built.dropped:
        work.notes.append(f"not used by this task: {', '.join(work.built.dropped)}")
    info = describe_answer(spec, work.checkpoint, work.settings)
    work.signature = encode_signature(
        work.limits,
        encode_output(spec.task, spec.output_size),
        token_types=spec.embeddings.token_types > 0,
        prompt_lengths=getattr(info, "include_prompt", True) is False,
    )


def lower_graphs(work: Work) -> None:
    options = work.options
    work.backend = (
        reference()
        if options.backend == "reference"
        else inductor_cpu(prepack=options.prepack, autotune=options.autotune, dtype=options.dtype)
    )
    work.lowered, work.from_cache = cached_lower(work.backend, work.built, work.signature, options.dtype)


def write_files(work: Work) -> None:
    graphs = work.folder / "graphs"
    graphs.mkdir()
    shutil.copyfile(work.lowered.path, graphs / f"encode{work.backend.suffix}")
    state = work.built.module.state_dict()
    if work.lowered.constants:
        tensors = {name: state[name].detach().contiguous() for name in work.lowered.constants}
        save_file(tensors, work.folder / "weights.safetensors")
    if work.tokenizer is not None:
        (work.folder / "tokenizer.json").write_text(work.tokenizer.serialized, "utf-8")
    work.manifest = describe(work)


def verify(work: Work) -> None:
    """Answer through the runtime, from the files as they will be loaded, and compare with HF."""
    if not work.options.verify:
        work.notes.append("parity with Hugging Face was not checked (--no-verify)")
        work.manifest = describe(work)
        return
    with start_engine(work.folder, work.manifest) as engine:
        parity = check_parity(engine, work.checkpoint, work.built.spec)
    for graph in work.manifest.graphs.values():
        _renew(work.folder / graph.file)
    work.manifest = describe(work, parity)


def _renew(path: Path) -> None:
    """Make the same file anew.

    The system remembers a library by its inode and by the path at which it was first loaded, which is about
    to change. One with weights beyond 2 GB reads them from that path when it is loaded again.
    """
    copy = path.with_name(f"{path.name}.copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


def put_in_place(work: Work) -> None:
    publish(work.folder, work.manifest, work.options.output)


STEPS: tuple[tuple[str, Callable[[Work], None]], ...] = (
    ("open the checkpoint", open_model),
    ("read the model", read_model),
    ("compile the graphs", lower_graphs),
    ("write the files", write_files),
    ("check parity with Hugging Face", verify),
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


def describe(work: Work, parity: ParityInfo | None = None) -> Manifest:
    """The manifest of what lies in the folder now."""
    options, spec, lowered = work.options, work.built.spec, work.lowered
    suffix = work.backend.suffix
    graph = GraphInfo(
        file=f"graphs/encode{suffix}",
        signature=work.signature,
        ladder=work.limits.ladder(),
        weights=lowered.weights,
        constants=lowered.constants,
        prepacked_bytes=lowered.path.stat().st_size if lowered.weights == "prepacked" else 0,
    )
    return Manifest(
        format_version=1,
        model=ModelInfo(
            name=Path(options.model).name if Path(options.model).is_dir() else options.model,
            family=spec.family,
            task=spec.task,
            parameters=sum(parameter.numel() for parameter in work.built.module.parameters()),
            vocab_size=spec.embeddings.vocab_size,
            hidden_size=spec.hidden_size,
        ),
        build=BuildInfo(
            precast=precast.__version__,
            torch=host.torch_release(),
            backend=work.backend.name,
            device=options.device,
            dtype=options.dtype,
            architecture=host.architecture(),
            instruction_sets=tuple(sorted(host.instruction_sets()))
            if work.backend.name == "inductor"
            else (),
            options=work.backend.settings,
        ),
        limits=work.limits,
        graphs={"encode": graph},
        weights="weights.safetensors" if lowered.constants else None,
        tokenization=_tokenization(work),
        answer=describe_answer(spec, work.checkpoint, work.settings),
        parity=parity,
        notes=tuple(work.notes),
        files=folder_info(work.folder),
    )


def _tokenization(work: Work) -> TokenizationInfo:
    found = work.tokenizer
    if found is None:
        return TokenizationInfo(
            file=None, token_types=False, truncation_side="right", empty_id=0, special_ids=()
        )
    return TokenizationInfo(
        file="tokenizer.json",
        # A table of one row has room for type 0 alone, whatever the tokenizer says.
        token_types=found.gives_token_types and work.built.spec.embeddings.token_types > 1,
        truncation_side=found.truncation_side,
        empty_id=found.empty_id,
        special_ids=found.special_ids,
    )
