"""The decode loop: takes running requests from source encoding to their outputs. Used by one thread."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from precast.graphs.sampling import AT_EOS, INVALID, RUNNING
from precast.runtime.errors import DeviceFailedError, GraphError, InferenceError, NotFiniteError
from precast.runtime.futures import Promise
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.outputs import FinishReason, GeneratedSequence, GenerateOutput, Timings
from precast.runtime.generation.request import Request
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import Launch, SourceEncoding, Stepper
from precast.runtime.io.detokenization import Detokenizer
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens
from precast.runtime.stats import GenerationCounts

logger = logging.getLogger("precast")


class DecodeLoop:
    """Encodes the sources of scheduled requests and decodes them.

    Any call may raise DeviceFailedError, after which no request gets an output.

    Args:
        stepper: Runs the graphs.
        self_cache: Blocks of the self-attention KV cache.
        cross_cache: Blocks of the cross-attention KV cache.
        detokenizer: Decodes targets; None if the artifact has no tokenizer.
        vocab_size: Vocabulary of the decoder.
    """

    def __init__(
        self,
        stepper: Stepper,
        self_cache: BlockAllocator,
        cross_cache: BlockAllocator,
        detokenizer: Detokenizer | None,
        vocab_size: int,
    ) -> None:
        self.counts = GenerationCounts()
        self.stepper = stepper
        self._state = stepper.state
        self._self_cache, self._cross_cache = self_cache, cross_cache
        self._detokenizer = detokenizer
        self._vocab_size = vocab_size
        self._encoding: dict[Request, SourceEncoding] = {}
        self._running: dict[Request, None] = {}  # an ordered set
        self._ended: set[Request] = set()
        self._launches: deque[Launch] = deque()
        self._batch: ActiveBatch | None = None

    def prepare(self) -> None:
        """Set up the calling thread, and encode two tokens as a warmup.

        Raises:
            GraphError: A graph failed.
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

    def start(self, requests: Sequence[Request]) -> list[Request]:
        """Encode the sources of scheduled requests, and return the requests that failed."""
        cross_slots = [
            self._cross_cache.slots(request.held.cross_blocks, request.source_tokens) for request in requests
        ]
        sources = [request.source_ids for request in requests]
        logger.debug("encoding %d sources, %d tokens", len(sources), sum(map(len, sources)))
        try:
            encoding = self.stepper.encode_sources(sources, cross_slots, hidden=False)
        except DeviceFailedError:
            raise
        except Exception as error:  # only these requests fail, not the running ones
            failure = _graph_error("encode_source", error)
            for request in requests:
                self._wipe(request)
                self.end(request, failure)
            return list(requests)
        self.counts.source_batches += 1
        for request in requests:
            self._encoding[request] = encoding
        return []

    def encode(self, tokens: Sequence[Tokens], promises: Sequence[Promise[EncoderOutput]]) -> None:
        """Encode one batch of sources, and resolve the promises with their hidden states."""
        try:
            hidden = self._encode([source.ids for source in tokens])
        except DeviceFailedError:
            raise
        except Exception as error:
            failure = _graph_error("encode_source", error)
            for promise in promises:
                promise.fail(failure)
            return
        for source, promise, states in zip(tokens, promises, hidden, strict=True):
            promise.resolve(EncoderOutput(source.ids, hidden=states.copy(), truncated=source.truncated))

    def run(self, steps: int) -> None:
        """Decode ``steps`` tokens of every running request, and end finished requests.

        If a graph fails, all running requests fail. Up to the stepper's ``depth`` launches are in flight, so
        a poll shows the state of that many launches ago.
        """
        self._join()
        if not self._running:
            self._launches.clear()  # their sequences have ended
            return
        if self._batch is None:
            self._batch = ActiveBatch(tuple(self._running), self._vocab_size, self._state.num_seqs)
            logger.debug("decoding %d requests, %d sequences", len(self._running), len(self._batch.seq_ids))
        try:
            self._launches.append(self.stepper.launch(self._batch, steps))
            while len(self._launches) >= self.stepper.depth:
                self._poll(self._launches.popleft())
        except DeviceFailedError:
            raise
        except Exception as error:
            failure = _graph_error("a step", error)
            for request in self._running:
                self.end(request, failure)

    def take_ended(self) -> list[Request]:
        """Remove and return the requests that have ended. They still hold their reservations."""
        return [request for request in list(self._running) if request in self._ended and self.remove(request)]

    def remove(self, request: Request) -> bool:
        """Remove a started request in any state; return False if there is no such request."""
        self._ended.discard(request)
        if self._encoding.pop(request, None) is not None:
            return True
        if request not in self._running:
            return False
        del self._running[request]
        self._batch = None
        codes = self._state.arrays["finished"][list(request.seq_ids)]
        # The scores of a running request are unchecked since its last poll.
        if np.isin(codes, (RUNNING, INVALID)).any():
            self._wipe(request)
        return True

    def close(self) -> None:
        """Release graphs and memory."""
        self._launches.clear()
        self._batch = None
        self.stepper.close()

    def end(self, request: Request, error: InferenceError | None) -> None:
        """End a request without an output: with an error, or with None if its caller ended it."""
        if request in self._ended:
            return
        if request in self._running or request in self._encoding:
            self._ended.add(request)
        if error is not None and request.future.fail(error):
            self.counts.failed += 1
        elif request.future.cancelled():
            request.future.begin()  # notifies concurrent.futures.wait
            self.counts.cancelled += 1
        else:  # its caller enforced the deadline before the engine did
            self.counts.failed += 1

    def _join(self) -> None:
        """Move requests whose sources are encoded to the running ones.

        If no request is running, do not wait for the encoding on the host: the device does.
        """
        now = time.monotonic()
        for request, encoding in list(self._encoding.items()):
            if self._running and not encoding.done():
                return
            del self._encoding[request]
            params, reservation = request.params, request.held
            self_slots = [
                self._self_cache.slots(blocks, params.max_length) for blocks in reservation.self_blocks
            ]
            cross_slots = self._cross_cache.slots(reservation.cross_blocks, request.source_tokens)
            self.stepper.begin(encoding, request.seq_ids, params, request.source_ids, self_slots, cross_slots)
            request.scheduled, request.streamed = now, len(params.prefix)
            self._running[request] = None
            self._batch = None

    def _poll(self, launch: Launch) -> None:
        """Read the progress of a launch, and end finished requests."""
        self.counts.steps += launch.steps
        requests = [request for request in launch.batch.requests if request in self._running]
        seq_ids = [seq_id for request in requests for seq_id in request.seq_ids]
        self.stepper.poll(launch, seq_ids)
        self._note_progress(launch, requests)
        code = dict(zip(seq_ids, self._state.arrays["finished"][seq_ids].tolist(), strict=True))
        for request in requests:
            codes = {code[seq_id] for seq_id in request.seq_ids}
            if request in self._ended:
                continue
            if request.failure is not None:
                self.end(request, request.failure)
            elif INVALID in codes and RUNNING not in codes:
                self.end(
                    request,
                    NotFiniteError(
                        "the model's scores are not finite, or every token is forbidden; check the weights "
                        "and the parameters of the request"
                    ),
                )
            elif RUNNING not in codes:
                self._finish(launch, request)

    def _finish(self, launch: Launch, request: Request) -> None:
        beams = request.params.mode == "beam"
        names = ("hypotheses", "hypothesis_logprobs") if beams else ("history", "logprobs")
        self.stepper.fetch(launch, request.seq_ids[: request.params.num_return_sequences], names)
        output = _read_output(request, self._state, self._detokenizer)
        if request.future.resolve(output):
            self._ended.add(request)
            self.counts.requests += 1
        else:  # cancelled or timed out during its last step
            self.end(request, None)

    def _note_progress(self, launch: Launch, requests: Sequence[Request]) -> None:
        now, new = time.monotonic(), 0
        first = [request.seq_ids[0] for request in requests]
        positions = self._state.arrays["positions"][first].tolist()
        for request, seq_id, position in zip(requests, first, positions, strict=True):
            length = position + 1
            if length <= request.streamed:
                continue
            if request.streamed == len(request.params.prefix):
                request.first_token = now
            new += (length - request.streamed) * len(request.seq_ids)
            if request.on_tokens is not None:
                self.stepper.fetch(launch, [seq_id], ["history"])
                request.on_tokens(self._state.arrays["history"][seq_id, request.streamed : length].copy())
            request.streamed = length
        self.counts.tokens += new
        self.counts.throughput.add(new)

    def _encode(self, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the hidden states of sources; their keys and values are written to the spare slot 0."""
        slots = [np.zeros(len(source), np.int32) for source in sources]
        hidden = self.stepper.encode_sources(sources, slots, hidden=True).hidden()
        self.stepper.wipe((), ())
        return hidden

    def _wipe(self, request: Request) -> None:
        reservation = request.held
        self.stepper.wipe(sum(reservation.self_blocks, ()), reservation.cross_blocks)


def _graph_error(graph: str, error: Exception) -> GraphError:
    if isinstance(error, GraphError):
        return error
    return GraphError(f"{graph} failed: {type(error).__name__}: {error}")


def _read_output(request: Request, state: DecoderState, detokenizer: Detokenizer | None) -> GenerateOutput:
    """Return the output of a finished request, copied from the state."""
    sequences = [
        _read_sequence(request, seq_id, state, detokenizer)
        for seq_id in request.seq_ids[: request.params.num_return_sequences]
    ]
    created = request.created
    timings = Timings(request.scheduled - created, request.first_token - created, time.monotonic() - created)
    return GenerateOutput(request.source_ids, tuple(sequences), request.tokens.truncated, timings)


def _read_sequence(
    request: Request, seq_id: int, state: DecoderState, detokenizer: Detokenizer | None
) -> GeneratedSequence:
    arrays, params, begin = state.arrays, request.params, len(request.params.prefix)
    if params.mode == "beam":
        end = int(arrays["hypothesis_lengths"][seq_id])
        ids = arrays["hypotheses"][seq_id, :end].copy()
        logprobs = arrays["hypothesis_logprobs"][seq_id, begin:end].copy()
        score = float(arrays["hypothesis_scores"][seq_id])
        reason: FinishReason = "stop" if ids[-1] in params.eos_token_ids else "length"
    else:
        end = int(arrays["positions"][seq_id]) + 1
        ids = arrays["history"][seq_id, :end].copy()
        logprobs = arrays["logprobs"][seq_id, begin:end].copy()
        score = float(logprobs.sum(dtype=np.float64))
        reason = "stop" if arrays["finished"][seq_id] == AT_EOS else "length"
    text = None if detokenizer is None else detokenizer.decode(ids.tolist())
    sequences_score = score if params.mode == "beam" else None
    return GeneratedSequence(ids, text, score, logprobs, reason, begin, sequences_score)
