"""Requests that are made and cancelled at random steps."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest

from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.request import Request
from tests.support.generation import request
from tests.support.random_requests import RequestSpec, assert_same_output, output_alone
from tests.support.scripted_steps import wait_until_idle

Moment = tuple[int, RequestSpec, int | None]
"""The step before which a request is submitted, the request, and the steps after which it is cancelled."""


class Script:
    """Submits and cancels requests at given steps; when the engine is idle, the next action is immediate."""

    def __init__(self, moments: list[Moment]) -> None:
        self.specs = [one for _, one, _ in moments]
        self.requests = [request(list(one[0]), one[1]) for _, one, _ in moments]
        self.cancelled: set[Request] = set()
        self._lock = threading.RLock()
        self._due = [(step, made, False) for (step, _, _), made in zip(moments, self.requests, strict=True)]
        self._due += [
            (step + after, made, True)
            for (step, _, after), made in zip(moments, self.requests, strict=True)
            if after is not None
        ]
        self._due.sort(key=lambda entry: (entry[0], entry[2]))
        self.engine: GenerationCore

    def act(self, step: int) -> None:
        """Run all actions that are due before ``step``."""
        with self._lock:
            while self._due and self._due[0][0] <= step:
                _, made, cancels = self._due.pop(0)
                if not cancels:
                    self.engine.offer(made)
                elif made.future.cancel():
                    self.cancelled.add(made)

    def finish(self) -> None:
        """Run the remaining actions and wait for all requests; an idle engine counts no steps."""
        while self._due:
            wait_until_idle(self.engine)
            with self._lock:
                if self._due:
                    self.act(self._due[0][0])
        wait([made.future for made in self.requests], timeout=60)
        wait_until_idle(self.engine)

    def assert_as_alone(self, alone: GenerationCore) -> None:
        """Assert that each request was cancelled, or has the output of the idle engine ``alone``."""
        for one, made in zip(self.specs, self.requests, strict=True):
            if made in self.cancelled:
                with pytest.raises(CancelledError):
                    made.future.result(timeout=0)
            else:
                assert_same_output(made.future.result(timeout=0), output_alone(alone, one))
