"""Errors of the compiler."""

from precast.graphs.errors import PrecastError


class CompileError(PrecastError):
    """Base class of all compiler errors; options that contradict each other raise it directly."""


class CheckpointError(CompileError):
    """The checkpoint is missing, incomplete or unreadable."""


class UnsupportedModelError(CompileError):
    """No model family supports the checkpoint's architecture, or the family does not support the task."""


class UnsupportedConfigError(CompileError):
    """The configuration has a value that no module implements."""


class UnusedWeightError(CompileError):
    """The checkpoint holds weights that the model would not use."""


class UnsetParameterError(CompileError):
    """The model has parameters for which the checkpoint holds no weights."""


class WeightValueError(CompileError):
    """A weight has the wrong shape, or values that are not finite."""


class ParityError(CompileError):
    """The outputs of the artifact differ from Hugging Face's by more than the tolerance."""


class SpeedCheckError(CompileError):
    """The quantized model is not faster than the unquantized one on this machine."""


class LoweringError(CompileError):
    """A graph could not be traced or compiled."""


class WorkloadError(CompileError):
    """A workload file cannot be read, or does not describe the lengths of inputs."""
