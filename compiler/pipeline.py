"""Checkpoint to artifact, as one list of steps."""

from __future__ import annotations

import math
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
    CudaInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    ParityInfo,
    TokenizationInfo,
    VariantInfo,
)
from precast.artifacts.writer import folder_info, publish, staging
from precast.compiler.answers import describe_answer
from precast.compiler.build import BuiltModel, describe_model, fill
from precast.compiler.cache import cached_lower
from precast.compiler.checkpoint import Checkpoint, open_checkpoint
from precast.compiler.errors import CompileError, LoweringError
from precast.compiler.limits import choose_limits
from precast.compiler.lowering.backend import Backend, Lowered
from precast.compiler.lowering.choice import choose_backend, compute_capability
from precast.compiler.options import CompileOptions
from precast.compiler.parity import check_parity
from precast.compiler.sentence_transformers import SentenceSettings, read_settings
from precast.compiler.tokenizer import TokenizerFacts, read_tokenizer
from precast.graphs.encode import Limits, encode_output, encode_signature
from precast.graphs.signature import Signature
from precast.runtime.loading import start_engine


@dataclass(frozen=True)
class Variant:
    """One lowered form of a graph, the size it was tuned at and the largest that it runs."""

    lowered: Lowered
    tuned_at: int
    max_tokens: int


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
    variants: list[Variant] = field(default_factory=list)
    from_cache: bool = True
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
    if options.dtype == "fp16" and described.family.overflows_fp16:
        raise CompileError(f"family {spec.family} overflows in fp16; choose bf16 or fp32")
    work.limits = choose_limits(options, spec, work.checkpoint, work.settings, work.tokenizer)
    work.built = fill(
        work.checkpoint, described, work.limits.max_length, options.torch_dtype, options.device_kind
    )
    if work.built.dropped:
        work.notes.append(f"not used by this task: {', '.join(work.built.dropped)}")
    info = describe_answer(spec, work.checkpoint, work.settings)
    work.signature = encode_signature(
        work.limits,
        encode_output(spec.task, spec.output_size),
        device=options.device_kind,
        token_types=spec.embeddings.token_types > 0,
        prompt_lengths=getattr(info, "include_prompt", True) is False,
    )


def lower_graphs(work: Work) -> None:
    options, limits = work.options, work.limits
    work.backend = choose_backend(options)
    sizes = sorted({min(size, limits.max_tokens) for size in work.backend.tuned_at})
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        lowered, cached = cached_lower(work.backend, work.built, work.signature, options.dtype, size)
        # Halfway in ratio, where either one's kernels are as far from what they were chosen for.
        upto = limits.max_tokens if following is None else math.isqrt(size * following)
        work.variants.append(Variant(lowered, size, upto))
        work.from_cache = work.from_cache and cached
    if len({variant.lowered.constants for variant in work.variants}) > 1:
        raise LoweringError("the variants of graph encode bind different weights; please report it")


def write_files(work: Work) -> None:
    graphs = work.folder / "graphs"
    graphs.mkdir()
    for variant, name in zip(work.variants, graph_files(work), strict=True):
        shutil.copyfile(variant.lowered.path, work.folder / name)
    state = work.built.module.state_dict()
    constants = work.variants[0].lowered.constants
    if constants:
        tensors = {name: state[name].detach().contiguous() for name in constants}
        save_file(tensors, work.folder / "weights.safetensors")
    if work.tokenizer is not None:
        (work.folder / "tokenizer.json").write_text(work.tokenizer.serialized, "utf-8")
    work.manifest = describe(work)


def verify(work: Work) -> None:
    """Answer through the runtime, from the files as they will be loaded, and compare with HF."""
    if not work.options.verify:
        work.notes.append("parity with Hugging Face was not checked (--no-verify)")
        if work.options.architecture is not None:
            work.notes.append("built without a GPU: kernels are not tuned and the graphs never ran")
        work.manifest = describe(work)
        return
    with start_engine(work.folder, work.manifest) as engine:
        parity = check_parity(engine, work.checkpoint, work.built.spec)
    for name in graph_files(work):
        _renew(work.folder / name)
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
    options, spec = work.options, work.built.spec
    lowered = [variant.lowered for variant in work.variants]
    graph = GraphInfo(
        variants=tuple(
            VariantInfo(
                file=name,
                max_tokens=variant.max_tokens,
                tuned_at=variant.tuned_at,
                choices=dict(variant.lowered.choices),
            )
            for variant, name in zip(work.variants, graph_files(work), strict=True)
        ),
        signature=work.signature,
        ladder=work.limits.ladder(options.device_kind),
        weights=lowered[0].weights,
        constants=lowered[0].constants,
        prepacked_bytes=sum(one.path.stat().st_size for one in lowered if one.weights == "prepacked"),
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
            device=options.device_kind,
            dtype=options.dtype,
            architecture=host.architecture(),
            instruction_sets=tuple(sorted(host.instruction_sets()))
            if work.backend.name == "inductor"
            else (),
            cuda=_cuda_info(options),
            options=work.backend.settings,
        ),
        limits=work.limits,
        graphs={"encode": graph},
        weights="weights.safetensors" if graph.constants else None,
        tokenization=_tokenization(work),
        answer=describe_answer(spec, work.checkpoint, work.settings),
        parity=parity,
        notes=tuple(work.notes),
        files=folder_info(work.folder),
    )


def graph_files(work: Work) -> list[str]:
    """Where each variant lies within the artifact."""
    suffix = work.backend.suffix
    if len(work.variants) == 1:
        return [f"graphs/encode{suffix}"]
    return [f"graphs/encode.{variant.tuned_at}{suffix}" for variant in work.variants]


def _cuda_info(options: CompileOptions) -> CudaInfo | None:
    if options.device_kind == "cpu":
        return None
    return CudaInfo(release=str(host.cuda_release()), compute_capability=compute_capability(options))


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
