"""What can go wrong between a request and its answer."""

from __future__ import annotations

from precast.graphs.errors import PrecastError


class InferenceError(PrecastError):
    """The root of all below."""


class InputError(InferenceError):
    """One input cannot be answered; the others of its call can. ``index`` is its place in the call."""

    index: int | None = None

    def at(self, index: int) -> InputError:
        """This error, naming the input that it belongs to."""
        self.index = index
        return self

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.index is None else f"input {self.index}: {message}"


class InputTypeError(InputError, TypeError):
    """Not a text, a pair of texts or a list of token ids."""


class TokenIdError(InputError, ValueError):
    """A token id is outside the vocabulary."""


class InputTooLongError(InputError, ValueError):
    """More tokens or characters than the artifact takes, and no leave to truncate."""


class RequestTooLargeError(InputError, ValueError):
    """More beams or tokens than the pools can ever hold."""


class EmptyInputError(InputError, ValueError):
    """A list of token ids without a token."""


class TokenizationError(InputError, ValueError):
    """The tokenizer cannot read a text, or there is no tokenizer."""


class OptionError(InferenceError, ValueError):
    """An option of a call has a value that it cannot have."""


class TaskError(InferenceError):
    """The artifact was compiled for another task."""


class QueueFullError(InferenceError):
    """More requests are waiting than the engine was told to hold."""


class RequestTimeoutError(InferenceError):
    """A request's time was over before it was answered."""


class EngineClosedError(InferenceError):
    """The engine was closed before it could answer."""


class GraphError(InferenceError):
    """A graph could not be loaded, bound or run."""


class DeviceFailedError(InferenceError):
    """The device failed. The engine is dead: all that it held and all that comes later meets this error."""


class ProcessorError(InferenceError):
    """A logits processor that a user brought failed, or gave no scores."""


class NotFiniteError(InferenceError):
    """The model gave scores that are no numbers, or every token was forbidden."""
