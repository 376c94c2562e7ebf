"""The requests that decode: their way through the graphs, from admission to their answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from precast.graphs.choose import INVALID, RUNNING
from precast.runtime.detokenization import Detokenizer
from precast.runtime.errors import GraphError, NotFiniteError, RuntimeFault
from precast.runtime.generation.answers import answer
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.pages import PagePool
from precast.runtime.generation.requests import Active, GenerateRequest
from precast.runtime.generation.scheduler import Placement
from precast.runtime.generation.speed import Speed
from precast.runtime.generation.state import RowState
from precast.runtime.generation.steps import Steps
from precast.runtime.outputs import EncoderOutput
from precast.runtime.tokenization import Tokens


@dataclass
class Counts:
    """What has been done since the engine was loaded."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    steps: int = 0
    admissions: int = 0
    speed: Speed = field(default_factory=Speed)


class Decoding:
    """Used by one thread.

    Args:
        steps: the graphs.
        state: that the graphs work on.
        own: of the self pools.
        cross: of the cross pools.
        pools: the tensors, by name, so that what a broken request wrote can be wiped out.
        detokenizer: None where the artifact has no tokenizer.
        vocab_size: of the decoder.
    """

    def __init__(
        self,
        steps: Steps,
        state: RowState,
        own: PagePool,
        cross: PagePool,
        pools: Mapping[str, Tensor],
        detokenizer: Detokenizer | None,
        vocab_size: int,
    ) -> None:
        self.counts = Counts()
        self._steps = steps
        self._state = state
        self._own, self._cross = own, cross
        self._pools = pools
        self._detokenizer = detokenizer
        self._vocab_size = vocab_size
        self._running: dict[GenerateRequest, tuple[Active, Placement]] = {}
        self._batch: ActiveBatch | None = None

    def probe(self) -> None:
        """Encode two tokens that nobody reads: a graph that fails shall do so when it is loaded.

        Raises:
            GraphError: it failed.
        """
        try:
            self._encode([np.array([0, 0], np.int32)])
        except Exception as error:
            raise GraphError(
                f"the graph admit fails on its first batch: {error}; compile the artifact again"
            ) from error

    def admit(self, placements: Sequence[Placement]) -> list[Placement]:
        """Begin requests; gives those that failed."""
        requests = [placement.ticket.payload for placement in placements]
        cross = [
            self._cross.places(placement.cross_pages, len(request.tokens))
            for placement, request in zip(placements, requests, strict=True)
        ]
        try:
            self._steps.admit([request.tokens.ids for request in requests], cross)
        except Exception as error:  # these requests fail, those that run do not
            failure = _failed("admit", error)
            for placement, request in zip(placements, requests, strict=True):
                self._wipe(placement.self_pages, placement.cross_pages)
                self.count_end(request, failure)
            return list(placements)
        self.counts.admissions += 1
        now = time.monotonic()
        for placement, request, places in zip(placements, requests, cross, strict=True):
            own = [self._own.places(pages, request.plan.max_length) for pages in placement.self_pages]
            self._state.begin(placement.rows, request.plan, request.tokens.ids, own, places)
            request.admitted, request.streamed = now, len(request.plan.prefix)
            self._running[request] = (Active(request, placement.rows), placement)
        self._batch = None
        return []

    def encode(self, tokens: Sequence[Tokens], futures: Sequence[Future[EncoderOutput]]) -> None:
        """Answer sources with the encoder's hidden states."""
        try:
            hidden = self._encode([one.ids for one in tokens])
        except Exception as error:
            failure = _failed("admit", error)
            for future in futures:
                if future.set_running_or_notify_cancel():
                    future.set_exception(failure)
            return
        for one, future, states in zip(tokens, futures, hidden, strict=True):
            if future.set_running_or_notify_cancel():
                future.set_result(EncoderOutput(one.ids, hidden=states.copy(), truncated=one.truncated))

    def run(self, steps: int) -> None:
        """Take all running requests so many tokens on. A graph that fails ends them all."""
        if not self._running:
            return
        if self._batch is None:
            requests = tuple(one for one, _ in self._running.values())
            self._batch = ActiveBatch(requests, self._vocab_size, self._state.rows)
        try:
            for _ in range(steps):
                self._steps.step(self._batch)
        except Exception as error:
            failure = _failed("a step", error)
            for request in self._running:
                self.count_end(request, failure)
            return
        self.counts.steps += steps
        self._note_progress(self._batch)

    def take_ended(self) -> list[Placement]:
        """Answer the requests that have ended; gives what they held."""
        finished, ended = self._state.arrays["finished"], []
        for request, (one, _) in list(self._running.items()):
            codes = finished[list(one.rows)]
            if request.failure is not None:
                self.count_end(request, request.failure)
            elif not request.settled and (codes != RUNNING).all():
                self._answer(one, bool((codes == INVALID).any()))
            if request.settled:
                ended += self.remove(request)
        return ended

    def remove(self, request: GenerateRequest) -> list[Placement]:
        """Take a request off the rows, whatever has become of it."""
        found = self._running.pop(request, None)
        if found is None:
            return []
        self._batch = None
        one, placement = found
        codes = self._state.arrays["finished"][list(one.rows)]
        # Nobody has looked at the scores of one that is still running since its last choice.
        if np.isin(codes, (RUNNING, INVALID)).any():
            self._wipe(placement.self_pages, placement.cross_pages)
        return [placement]

    def count_end(self, request: GenerateRequest, error: RuntimeFault | None) -> None:
        """End a request without an answer: by an error, or with none because its maker cancelled it."""
        if request.settled:
            return
        if request.end() and error is not None:
            self.counts.failed += 1
            request.future.set_exception(error)
        else:
            self.counts.cancelled += 1

    def _answer(self, one: Active, invalid: bool) -> None:
        if invalid:
            self.count_end(
                one.request,
                NotFiniteError(
                    "the model's scores are no numbers, or every token is forbidden; check the weights and "
                    "the parameters of the request"
                ),
            )
            return
        found = answer(one, self._state, self._detokenizer)
        if not one.request.end():  # it was cancelled during its last step
            self.counts.cancelled += 1
            return
        self.counts.requests += 1
        one.request.future.set_result(found)

    def _note_progress(self, batch: ActiveBatch) -> None:
        now, new = time.monotonic(), 0
        for one in batch.requests:
            request, row = one.request, one.rows[0]
            reached = int(self._state.arrays["positions"][row]) + 1
            if reached <= request.streamed:
                continue
            if request.streamed == len(one.plan.prefix):
                request.first_token = now
            new += (reached - request.streamed) * len(one.rows)
            if request.on_tokens is not None:
                request.on_tokens(self._state.arrays["history"][row, request.streamed : reached].copy())
            request.streamed = reached
        self.counts.tokens += new
        self.counts.speed.add(new)

    def _encode(self, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Their keys and values go to a place that counts for nobody."""
        hidden = self._steps.admit(sources, [np.zeros(len(source), np.int32) for source in sources])
        self._wipe((), ())
        return hidden

    def _wipe(self, self_pages: Sequence[tuple[int, ...]], cross_pages: tuple[int, ...]) -> None:
        """Overwrite what is no number: a mask gives it no weight, but zero times it is no number either.

        The page that is never dealt out is among what is masked.
        """
        for kind, pages in (("self", sum(self_pages, ())), ("cross", cross_pages)):
            pool = self._own if kind == "self" else self._cross
            at = pool.places((0, *pages), (len(pages) + 1) * pool.page_size)
            for name, tensor in self._pools.items():
                if name.startswith(f"{kind}_"):
                    tensor[at.astype(np.int64)] = 0


def _failed(what: str, error: Exception) -> GraphError:
    return (
        error
        if isinstance(error, GraphError)
        else GraphError(f"{what} failed: {type(error).__name__}: {error}")
    )
