"""Turns failures of a CUDA device into DeviceFailedError, which ends the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from precast.runtime.errors import DeviceFailedError


class DeviceGuard:
    """Wraps the calls of a device: after a failure, all later calls raise the same error."""

    def __init__(self) -> None:
        self._failure: DeviceFailedError | None = None

    def check(self) -> None:
        """Raises: DeviceFailedError: The device has failed before."""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def calls(self, doing: str) -> Iterator[None]:
        """Turn any error inside into a lasting failure: the streams may hold incomplete work.

        Args:
            doing: Completes the sentence "the device failed while ...".

        Raises:
            DeviceFailedError: Any error was raised inside.
        """
        try:
            yield
        except DeviceFailedError:
            raise
        except Exception as error:
            self._failure = device_failed(doing, error)
            raise self._failure from error


def device_failed(doing: str, error: Exception) -> DeviceFailedError:
    """Return the error of an engine whose device failed while ``doing``."""
    reason = (str(error) or repr(error)).splitlines()[0]
    advice = "CUDA errors persist in a process: load the artifact again in a new process"
    if isinstance(error, torch.OutOfMemoryError):
        advice = (
            "Load the artifact again in a new process, with a smaller batch_tokens, "
            "cuda_graph_max_tokens or gpu_memory_utilization"
        )
    return DeviceFailedError(
        f"the device failed while {doing}: {reason}. This engine has failed and serves no "
        f"more requests. {advice}"
    )
