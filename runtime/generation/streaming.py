"""The text of one request while it is generated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from queue import SimpleQueue
from types import TracebackType

import numpy as np

from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.io.detokenization import TextStream


class TextPieces(Iterator[str]):
    """Iterates over pieces of text; joined they are the answer's ``text``.

    Args:
        request: not offered to the engine yet.
        text: a new stream, that has been given the prefix.
        begun: text of the prefix.
    """

    def __init__(self, request: GenerateRequest, text: TextStream, begun: str = "") -> None:
        self._request = request
        self._text = text
        self._begun = begun
        self._over = False
        tokens: SimpleQueue[np.ndarray | None] = SimpleQueue()
        self._tokens = tokens
        # Neither may hold this object: whoever drops it ends the request.
        request.on_tokens = tokens.put
        request.future.add_done_callback(lambda _: tokens.put(None))

    def __next__(self) -> str:
        """The next piece, never an empty one.

        Raises:
            StopIteration: the answer is complete.
            InferenceError: what the request ended by.
        """
        piece, self._begun = self._begun, ""
        while not piece:
            if self._over:
                raise StopIteration
            ids = self._tokens.get()
            if ids is None:
                self._over = True
                self._check()
                piece = self._text.end()
            else:
                piece = "".join([self._text.put(int(token)) for token in ids])
        return piece

    def result(self, timeout: float | None = None) -> GenerateOutput:
        """Wait for the whole answer; works beside and after the iteration.

        Raises:
            InferenceError: what the request ended by.
            TimeoutError: it is not there after ``timeout`` seconds.
        """
        return self._request.future.result(timeout)

    def close(self) -> None:
        """Cancel the request if it still runs."""
        self._request.future.cancel()

    def __enter__(self) -> TextPieces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _check(self) -> None:
        try:
            error = self._request.future.exception()
        except CancelledError:  # by close
            raise StopIteration from None
        if error is not None:
            raise error
