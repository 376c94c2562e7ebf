"""``Task``: the parts of the pipeline that differ between encoders and encoder-decoders."""

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
    """A checkpoint with its settings and tokenizer, read before a model is built.

    Attributes:
        checkpoint: the opened checkpoint.
        task: name of the task to compile for.
        settings: settings of sentence-transformers, or their defaults.
        tokenizer: the tokenizer; None if the checkpoint has none.
    """

    checkpoint: Checkpoint
    task: TaskName
    settings: SentenceSettings
    tokenizer: TokenizerFacts | None


@dataclass(frozen=True)
class TaskModel:
    """A model with its weights, as graphs to compile, and its description for the manifest.

    Attributes:
        family: name of the model family.
        parameters: number of elements of all parameters.
        vocab_size: exclusive upper bound of the input token ids.
        hidden_size: hidden size of the encoder.
        token_types: whether the encoder reads the tokenizer's token types.
        limits: the largest input and the largest batch.
        graphs: the graphs, in the order of the manifest.
        output: description of the outputs.
        dropped: names of checkpoint weights that the task does not use.
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
    """The task-specific functions of the pipeline; the pipeline itself does not distinguish tasks.

    Attributes:
        manifest: class of the manifest.
        read_tokenizer: reads the tokenizer for the runtime; returns None if the checkpoint has none.
        build: reads the weights and builds the graphs. Raises CompileError or one of its subclasses.
        check_parity: compares an engine's outputs with Hugging Face's. Raises ParityError.
        run_example: runs a number of example inputs through an engine, to time it.
        open_profiled: opens the graph whose batches are profiled, as an engine runs it.
        default_batch_tokens: returns the tokens of a packed batch of an engine with default options.
    """

    manifest: type[EncodeManifest] | type[GenerateManifest]
    read_tokenizer: Callable[[Checkpoint, SentenceSettings], TokenizerFacts | None]
    build: Callable[[Source, Target, CompileOptions], TaskModel]
    check_parity: Callable[[Any, Checkpoint], ParityInfo]
    run_example: Callable[[Any, int], object]
    open_profiled: GraphRun
    default_batch_tokens: Callable[[TaskModel, Target], int]
