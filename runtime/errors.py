"""Errors of loading options, of inputs and of running requests."""

from __future__ import annotations

import queue
from typing import Self

from precast.graphs.errors import PrecastError


class InferenceError(PrecastError):
    """Base class of the runtime's errors. ``index`` names the input of a call if only that one fails."""

    index: int | None = None

    def at(self, index: int) -> Self:
        """Set ``index`` and return this error."""
        self.index = index
        return self

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.index is None else f"input {self.index}: {message}"


class InputError(InferenceError):
    """One input of a call is invalid; the others are not affected."""


class InputTypeError(InputError, TypeError):
    """The input is not a text, a pair of texts or a list of token ids."""


class TokenIdError(InputError, ValueError):
    """A token id is outside the vocabulary."""


class InputTooLongError(InputError, ValueError):
    """The input has more tokens or characters than the artifact accepts, and must not be truncated."""


class RequestTooLargeError(InputError, ValueError):
    """The request needs more sequences or KV cache blocks than the engine has."""


class EmptyInputError(InputError, ValueError):
    """A list of token ids is empty."""


class TokenizationError(InputError, ValueError):
    """The tokenizer cannot encode a text, or the artifact has no tokenizer."""


class OptionError(InferenceError, ValueError):
    """An option of ``load`` or of a call has an invalid value."""


class TaskError(InferenceError):
    """The artifact was compiled for another task."""


class QueueFullError(InferenceError, queue.Full):
    """``max_waiting`` requests are queued already."""


class RequestTimeoutError(InferenceError, TimeoutError):
    """The ``timeout`` of a request passed before it finished."""


class EngineClosedError(InferenceError):
    """The engine was closed before the request finished."""


class EngineForkedError(EngineClosedError):
    """The engine was loaded before this process was forked; its thread exists in the parent process only."""


class ReentrantCallError(InferenceError, RuntimeError):
    """A blocking call was made in the engine's own thread, by a logits processor, and would never return."""


class EngineFailedError(InferenceError):
    """The engine's thread failed. Every request that was queued and every later call gets this error."""


class DeviceFailedError(EngineFailedError):
    """The device failed. Every request that was queued and every later call gets this error."""


class GraphError(InferenceError):
    """A graph could not be loaded, bound or run."""


class ProcessorError(InferenceError):
    """A logits processor raised an error, or did not return scores."""


class NotFiniteError(InferenceError):
    """The model's scores are not finite, or every token is forbidden."""
