"""The requests that decode: their way through the graphs, from encoding to their answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from precast.graphs.sampling import INVALID, RUNNING
from precast.runtime.errors import DeviceFailedError, GraphError, InferenceError, NotFiniteError
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.request import Active, GenerateRequest
from precast.runtime.generation.results import answer
from precast.runtime.generation.scheduler import Placement
from precast.runtime.generation.stepper import Launch, SourceEncoding, Stepper
from precast.runtime.generation.throughput import Speed
from precast.runtime.io.detokenization import Detokenizer
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens


@dataclass
class Counts:
    """What has been done since the engine was loaded."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    steps: int = 0
    source_batches: int = 0
    speed: Speed = field(default_factory=Speed)


class Decoding:
    """Used by one thread.

    Any call may raise DeviceFailedError; nobody is answered after that.

    Args:
        stepper: what runs the graphs.
        own: of the self kv_cache.
        cross: of the cross kv_cache.
        detokenizer: None where the artifact has no tokenizer.
        vocab_size: of the decoder.
    """

    def __init__(
        self,
        stepper: Stepper,
        own: BlockAllocator,
        cross: BlockAllocator,
        detokenizer: Detokenizer | None,
        vocab_size: int,
    ) -> None:
        self.counts = Counts()
        self.stepper = stepper
        self._state = stepper.state
        self._own, self._cross = own, cross
        self._detokenizer = detokenizer
        self._vocab_size = vocab_size
        self._encoding: dict[GenerateRequest, tuple[SourceEncoding, Placement]] = {}
        self._running: dict[GenerateRequest, tuple[Active, Placement]] = {}
        self._launches: deque[Launch] = deque()
        self._batch: ActiveBatch | None = None

    def prepare(self) -> None:
        """Set up what belongs to the calling thread, and encode two tokens that nobody reads.

        Raises:
            GraphError: a graph failed, which shall show when it is loaded.
        """
        self.stepper.prepare()
        try:
            self._encode([np.array([0, 0], np.int32)])
        except DeviceFailedError:
            raise
        except Exception as error:
            raise GraphError(
                f"the graph encode_source fails on its first batch: {error}; compile the artifact again"
            ) from error

    def start(self, placements: Sequence[Placement]) -> list[Placement]:
        """Begin requests; gives those that failed."""
        requests = [placement.ticket.payload for placement in placements]
        cross = [
            self._cross.slots(placement.cross_blocks, len(request.tokens))
            for placement, request in zip(placements, requests, strict=True)
        ]
        try:
            encoding = self.stepper.encode_sources(
                [request.tokens.ids for request in requests], cross, hidden=False
            )
        except DeviceFailedError:
            raise
        except Exception as error:  # these requests fail, those that run do not
            failure = _failed("encode_source", error)
            for placement, request in zip(placements, requests, strict=True):
                self._wipe(placement)
                self.count_end(request, failure)
            return list(placements)
        self.counts.source_batches += 1
        for request, placement in zip(requests, placements, strict=True):
            self._encoding[request] = (encoding, placement)
        return []

    def encode(self, tokens: Sequence[Tokens], futures: Sequence[Future[EncoderOutput]]) -> None:
        """Answer sources with the encoder's hidden states."""
        try:
            hidden = self._encode([one.ids for one in tokens])
        except DeviceFailedError:
            raise
        except Exception as error:
            failure = _failed("encode_source", error)
            for future in futures:
                if future.set_running_or_notify_cancel():
                    future.set_exception(failure)
            return
        for one, future, states in zip(tokens, futures, hidden, strict=True):
            if future.set_running_or_notify_cancel():
                future.set_result(EncoderOutput(one.ids, hidden=states.copy(), truncated=one.truncated))

    def run(self, steps: int) -> None:
        """Take all running requests so many tokens on, and look at what is over.

        A graph that fails ends them. So many launches as the stepper's ``depth`` are under way: what a look
        shows is by so much older.
        """
        self._join()
        if not self._running:
            self._launches.clear()  # of rows that have ended
            return
        if self._batch is None:
            requests = tuple(one for one, _ in self._running.values())
            self._batch = ActiveBatch(requests, self._vocab_size, self._state.num_seqs)
        try:
            self._launches.append(self.stepper.launch(self._batch, steps))
            while len(self._launches) >= self.stepper.depth:
                self._poll(self._launches.popleft())
        except DeviceFailedError:
            raise
        except Exception as error:
            failure = _failed("a step", error)
            for request in self._running:
                self.count_end(request, failure)

    def take_ended(self) -> list[Placement]:
        """What the requests held that have ended."""
        return [
            placement
            for request in list(self._running)
            if request.settled
            for placement in self.remove(request)
        ]

    def remove(self, request: GenerateRequest) -> list[Placement]:
        """Take a request off the rows, whatever has become of it."""
        if request in self._encoding:
            return [self._encoding.pop(request)[1]]
        found = self._running.pop(request, None)
        if found is None:
            return []
        self._batch = None
        one, placement = found
        codes = self._state.arrays["finished"][list(one.rows)]
        # Nobody has looked at the scores of one that is still running since its last group.
        if np.isin(codes, (RUNNING, INVALID)).any():
            self._wipe(placement)
        return [placement]

    def close(self) -> None:
        """Let go of graphs and memory; nobody is answered any more."""
        self._launches.clear()
        self._batch = None
        self.stepper.close()

    def count_end(self, request: GenerateRequest, error: InferenceError | None) -> None:
        """End a request without an answer: by an error, or with none because its maker cancelled it."""
        if request.settled:
            return
        if request.end() and error is not None:
            self.counts.failed += 1
            request.future.set_exception(error)
        else:
            self.counts.cancelled += 1

    def _join(self) -> None:
        """Let requests decode whose sources are encoded.

        Where nobody decodes it is the device that waits, and not the host.
        """
        now = time.monotonic()
        for request, (encoding, placement) in list(self._encoding.items()):
            if self._running and not encoding.done():
                return
            del self._encoding[request]
            plan, ids = request.plan, request.tokens.ids
            own = [self._own.slots(blocks, plan.max_length) for blocks in placement.self_blocks]
            cross = self._cross.slots(placement.cross_blocks, len(ids))
            self.stepper.begin(encoding, placement.rows, plan, ids, own, cross)
            request.scheduled, request.streamed = now, len(plan.prefix)
            self._running[request] = (Active(request, placement.rows), placement)
            self._batch = None

    def _poll(self, launch: Launch) -> None:
        """Answer who has ended, tell others how far they are."""
        self.counts.steps += launch.steps
        here = [one for one in launch.batch.requests if one.request in self._running]
        rows = [row for one in here for row in one.rows]
        self.stepper.poll(launch, rows)
        self._note_progress(launch, here)
        code = dict(zip(rows, self._state.arrays["finished"][rows].tolist(), strict=True))
        for one in here:
            codes = {code[row] for row in one.rows}
            if one.request.failure is not None:
                self.count_end(one.request, one.request.failure)
            elif not one.request.settled and RUNNING not in codes:
                self._answer(launch, one, INVALID in codes)

    def _answer(self, launch: Launch, one: Active, invalid: bool) -> None:
        if invalid:
            self.count_end(
                one.request,
                NotFiniteError(
                    "the model's scores are no numbers, or every token is forbidden; check the weights and "
                    "the parameters of the request"
                ),
            )
            return
        kind = ("hypotheses", "hypothesis_logprobs") if one.plan.mode == "beam" else ("history", "logprobs")
        self.stepper.fetch(launch, one.rows[: one.plan.num_return_sequences], kind)
        found = answer(one, self._state, self._detokenizer)
        if not one.request.end():  # it was cancelled during its last step
            self.counts.cancelled += 1
            return
        self.counts.requests += 1
        one.request.future.set_result(found)

    def _note_progress(self, launch: Launch, requests: Sequence[Active]) -> None:
        now, new = time.monotonic(), 0
        first = [one.rows[0] for one in requests]
        positions = self._state.arrays["positions"][first].tolist()
        for one, row, position in zip(requests, first, positions, strict=True):
            request, reached = one.request, position + 1
            if reached <= request.streamed:
                continue
            if request.streamed == len(one.plan.prefix):
                request.first_token = now
            new += (reached - request.streamed) * len(one.rows)
            if request.on_tokens is not None:
                self.stepper.fetch(launch, [row], ["history"])
                request.on_tokens(self._state.arrays["history"][row, request.streamed : reached].copy())
            request.streamed = reached
        self.counts.tokens += new
        self.counts.speed.add(new)

    def _encode(self, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Their keys and values go to a place that counts for nobody."""
        nowhere = [np.zeros(len(source), np.int32) for source in sources]
        hidden = self.stepper.encode_sources(sources, nowhere, hidden=True).hidden()
        self.stepper.wipe((), ())
        return hidden

    def _wipe(self, placement: Placement) -> None:
        self.stepper.wipe(sum(placement.self_blocks, ()), placement.cross_blocks)


def _failed(what: str, error: Exception) -> GraphError:
    return (
        error
        if isinstance(error, GraphError)
        else GraphError(f"{what} failed: {type(error).__name__}: {error}")
    )
