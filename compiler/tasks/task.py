"""What a task is: what one kind of model needs of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from precast.artifacts.manifest import EncodeManifest, GenerateManifest, ParityInfo
from precast.artifacts.output_info import ClassifyInfo, EmbedInfo, GenerateInfo, HiddenInfo
from precast.compiler.buckets.profile import GraphRun
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceSettings
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.graph import GraphSpec
from precast.compiler.options import CompileOptions
from precast.compiler.targets.target import Target
from precast.graphs.encode import EncodeLimits
from precast.graphs.encode import Task as TaskName
from precast.graphs.seq2seq import GenerateLimits


@dataclass(frozen=True)
class Source:
    """What a user brought, read and before anything is built."""

    checkpoint: Checkpoint
    task: TaskName
    settings: SentenceSettings
    tokenizer: TokenizerFacts | None


@dataclass(frozen=True)
class TaskModel:
    """A model with its weights, as graphs to compile, and what the manifest says of it.

    Attributes:
        family: its family's name.
        parameters: how many numbers it has.
        vocab_size: token ids of inputs are below it.
        hidden_size: of the encoder.
        token_types: whether the tokenizer's token types have a meaning for it.
        limits: the largest input and batch.
        graphs: in the order in which they are listed.
        output: how its outputs are to be read.
        dropped: source weights that the task does not read.
    """

    family: str
    parameters: int
    vocab_size: int
    hidden_size: int
    token_types: bool
    limits: EncodeLimits | GenerateLimits
    graphs: tuple[GraphSpec, ...]
    output: EmbedInfo | ClassifyInfo | HiddenInfo | GenerateInfo
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What one kind of model needs of the pipeline, which asks for nothing else.

    Attributes:
        manifest: the class of its manifests.
        read_tokenizer: the tokenizer as the runtime needs it; None if the checkpoint has none.
        build: reads the weights and makes the graphs. Raises CompileError; its subclasses say why.
        check_parity: compares an engine with Hugging Face. Raises ParityError.
        run_example: asks an engine for the outputs of so many inputs, to time it.
        open_profiled: opens the graph whose batches are profiled, as an engine runs it.
        default_batch_tokens: tokens of a packed batch of an engine with default options.
    """

    manifest: type[EncodeManifest] | type[GenerateManifest]
    read_tokenizer: Callable[[Checkpoint, SentenceSettings], TokenizerFacts | None]
    build: Callable[[Source, Target, CompileOptions], TaskModel]
    check_parity: Callable[[Any, Checkpoint], ParityInfo]
    run_example: Callable[[Any, int], object]
    open_profiled: GraphRun
    default_batch_tokens: Callable[[TaskModel, Target], int]
