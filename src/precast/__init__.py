"""Compile Hugging Face encoders and encoder-decoders ahead of time, and run them in a small runtime."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from precast._version import __version__ as __version__

if TYPE_CHECKING:
    from precast.artifacts.errors import ArchitectureError as ArchitectureError
    from precast.artifacts.errors import ArtifactError as ArtifactError
    from precast.artifacts.errors import ArtifactExistsError as ArtifactExistsError
    from precast.artifacts.errors import DeviceError as DeviceError
    from precast.artifacts.errors import FileHashError as FileHashError
    from precast.artifacts.errors import FileSizeError as FileSizeError
    from precast.artifacts.errors import FormatVersionError as FormatVersionError
    from precast.artifacts.errors import InstructionSetError as InstructionSetError
    from precast.artifacts.errors import ManifestError as ManifestError
    from precast.artifacts.errors import MissingFileError as MissingFileError
    from precast.artifacts.errors import NotAnArtifactError as NotAnArtifactError
    from precast.artifacts.errors import OversizedError as OversizedError
    from precast.artifacts.errors import TokenizerFileError as TokenizerFileError
    from precast.artifacts.errors import TorchVersionError as TorchVersionError
    from precast.artifacts.errors import UnexpectedFileError as UnexpectedFileError
    from precast.artifacts.errors import UnreadableError as UnreadableError
    from precast.artifacts.errors import UnsafePathError as UnsafePathError
    from precast.artifacts.errors import WeightsError as WeightsError
    from precast.compiler import compile as compile
    from precast.compiler.errors import CheckpointError as CheckpointError
    from precast.compiler.errors import CompileError as CompileError
    from precast.compiler.errors import LoweringError as LoweringError
    from precast.compiler.errors import ParityError as ParityError
    from precast.compiler.errors import SpeedCheckError as SpeedCheckError
    from precast.compiler.errors import UnsetParameterError as UnsetParameterError
    from precast.compiler.errors import UnsupportedConfigError as UnsupportedConfigError
    from precast.compiler.errors import UnsupportedModelError as UnsupportedModelError
    from precast.compiler.errors import UnusedWeightError as UnusedWeightError
    from precast.compiler.errors import WeightValueError as WeightValueError
    from precast.compiler.errors import WorkloadError as WorkloadError
    from precast.graphs.errors import BucketError as BucketError
    from precast.graphs.errors import LimitsError as LimitsError
    from precast.graphs.errors import PrecastError as PrecastError
    from precast.graphs.errors import ProgramError as ProgramError
    from precast.graphs.errors import SignatureError as SignatureError
    from precast.runtime.aio import AsyncEncoder as AsyncEncoder
    from precast.runtime.aio import AsyncSeq2Seq as AsyncSeq2Seq
    from precast.runtime.encoder.engine import Encoder as Encoder
    from precast.runtime.errors import DeviceFailedError as DeviceFailedError
    from precast.runtime.errors import EmptyInputError as EmptyInputError
    from precast.runtime.errors import EngineClosedError as EngineClosedError
    from precast.runtime.errors import EngineFailedError as EngineFailedError
    from precast.runtime.errors import EngineForkedError as EngineForkedError
    from precast.runtime.errors import GraphError as GraphError
    from precast.runtime.errors import InferenceError as InferenceError
    from precast.runtime.errors import InputError as InputError
    from precast.runtime.errors import InputTooLongError as InputTooLongError
    from precast.runtime.errors import InputTypeError as InputTypeError
    from precast.runtime.errors import NotFiniteError as NotFiniteError
    from precast.runtime.errors import OptionError as OptionError
    from precast.runtime.errors import ProcessorError as ProcessorError
    from precast.runtime.errors import QueueFullError as QueueFullError
    from precast.runtime.errors import ReentrantCallError as ReentrantCallError
    from precast.runtime.errors import RequestTimeoutError as RequestTimeoutError
    from precast.runtime.errors import RequestTooLargeError as RequestTooLargeError
    from precast.runtime.errors import TaskError as TaskError
    from precast.runtime.errors import TokenIdError as TokenIdError
    from precast.runtime.errors import TokenizationError as TokenizationError
    from precast.runtime.generation.engine import Seq2Seq as Seq2Seq
    from precast.runtime.generation.outputs import GeneratedSequence as GeneratedSequence
    from precast.runtime.generation.outputs import GenerateOutput as GenerateOutput
    from precast.runtime.io.outputs import EncoderOutput as EncoderOutput
    from precast.runtime.load import load as load


_EXPORTS = {
    **dict.fromkeys(
        (
            "ArchitectureError",
            "ArtifactError",
            "ArtifactExistsError",
            "DeviceError",
            "FileHashError",
            "FileSizeError",
            "FormatVersionError",
            "InstructionSetError",
            "ManifestError",
            "MissingFileError",
            "NotAnArtifactError",
            "OversizedError",
            "TokenizerFileError",
            "TorchVersionError",
            "UnexpectedFileError",
            "UnreadableError",
            "UnsafePathError",
            "WeightsError",
        ),
        "precast.artifacts.errors",
    ),
    "compile": "precast.compiler",
    **dict.fromkeys(
        (
            "CheckpointError",
            "CompileError",
            "LoweringError",
            "ParityError",
            "SpeedCheckError",
            "UnsetParameterError",
            "UnsupportedConfigError",
            "UnsupportedModelError",
            "UnusedWeightError",
            "WeightValueError",
            "WorkloadError",
        ),
        "precast.compiler.errors",
    ),
    **dict.fromkeys(
        (
            "BucketError",
            "LimitsError",
            "PrecastError",
            "ProgramError",
            "SignatureError",
        ),
        "precast.graphs.errors",
    ),
    "AsyncEncoder": "precast.runtime.aio",
    "AsyncSeq2Seq": "precast.runtime.aio",
    "Encoder": "precast.runtime.encoder.engine",
    **dict.fromkeys(
        (
            "DeviceFailedError",
            "EmptyInputError",
            "EngineClosedError",
            "EngineFailedError",
            "EngineForkedError",
            "GraphError",
            "InferenceError",
            "InputError",
            "InputTooLongError",
            "InputTypeError",
            "NotFiniteError",
            "OptionError",
            "ProcessorError",
            "QueueFullError",
            "ReentrantCallError",
            "RequestTimeoutError",
            "RequestTooLargeError",
            "TaskError",
            "TokenIdError",
            "TokenizationError",
        ),
        "precast.runtime.errors",
    ),
    "Seq2Seq": "precast.runtime.generation.engine",
    "GenerateOutput": "precast.runtime.generation.outputs",
    "GeneratedSequence": "precast.runtime.generation.outputs",
    "EncoderOutput": "precast.runtime.io.outputs",
    "load": "precast.runtime.load",
}
"""The module of each name; names resolve on first use, since importing precast must not import torch."""

__all__ = [
    "ArchitectureError",
    "ArtifactError",
    "ArtifactExistsError",
    "AsyncEncoder",
    "AsyncSeq2Seq",
    "BucketError",
    "CheckpointError",
    "CompileError",
    "DeviceError",
    "DeviceFailedError",
    "EmptyInputError",
    "Encoder",
    "EncoderOutput",
    "EngineClosedError",
    "EngineFailedError",
    "EngineForkedError",
    "FileHashError",
    "FileSizeError",
    "FormatVersionError",
    "GenerateOutput",
    "GeneratedSequence",
    "GraphError",
    "InferenceError",
    "InputError",
    "InputTooLongError",
    "InputTypeError",
    "InstructionSetError",
    "LimitsError",
    "LoweringError",
    "ManifestError",
    "MissingFileError",
    "NotAnArtifactError",
    "NotFiniteError",
    "OptionError",
    "OversizedError",
    "ParityError",
    "PrecastError",
    "ProcessorError",
    "ProgramError",
    "QueueFullError",
    "ReentrantCallError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "Seq2Seq",
    "SignatureError",
    "SpeedCheckError",
    "TaskError",
    "TokenIdError",
    "TokenizationError",
    "TokenizerFileError",
    "TorchVersionError",
    "UnexpectedFileError",
    "UnreadableError",
    "UnsafePathError",
    "UnsetParameterError",
    "UnsupportedConfigError",
    "UnsupportedModelError",
    "UnusedWeightError",
    "WeightValueError",
    "WeightsError",
    "WorkloadError",
    "compile",
    "load",
]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'precast' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
