"""What can go wrong between a checkpoint and an artifact."""

from precast.graphs.errors import PrecastError


class CompileError(PrecastError):
    """The checkpoint cannot be compiled as asked."""


class CheckpointError(CompileError):
    """The checkpoint is missing, incomplete or unreadable."""


class UnsupportedModelError(CompileError):
    """No family knows this kind of model, or the task does not fit it."""


class UnsupportedConfigError(CompileError):
    """A value in the configuration asks for something that no module does."""


class UnusedWeightError(CompileError):
    """The checkpoint holds weights that nothing would read."""


class UnsetParameterError(CompileError):
    """The model has parameters that the checkpoint does not fill."""


class WeightValueError(CompileError):
    """A weight has the wrong shape, or is not finite."""


class ParityError(CompileError):
    """The artifact does not answer as Hugging Face does."""


class SpeedCheckError(CompileError):
    """Weights of eight bits make this model no faster on this machine."""


class LoweringError(CompileError):
    """A graph could not be traced or compiled."""


class WorkloadError(CompileError):
    """A workload file cannot be read, or does not say how long inputs are."""
