"""From the state of finished rows to an answer."""

from __future__ import annotations

import time

import numpy as np

from precast.graphs.sampling import AT_EOS
from precast.runtime.generation.outputs import FinishReason, GeneratedSequence, GenerateOutput, Timings
from precast.runtime.generation.request import Active
from precast.runtime.generation.state import DecoderState
from precast.runtime.io.detokenization import Detokenizer


def answer(one: Active, state: DecoderState, detokenizer: Detokenizer | None) -> GenerateOutput:
    """Copies out what a request has generated. All its rows are finished."""
    request, plan, arrays = one.request, one.plan, state.arrays
    begin = len(plan.prefix)
    sequences = []
    for row in one.rows[: plan.num_return_sequences]:
        if plan.mode == "beam":
            end = int(arrays["hypothesis_lengths"][row])
            ids = arrays["hypotheses"][row, :end].copy()
            logprobs = arrays["hypothesis_logprobs"][row, begin:end].copy()
            score = float(arrays["hypothesis_scores"][row])
            reason: FinishReason = "stop" if ids[-1] in plan.eos_token_ids else "length"
        else:
            end = int(arrays["positions"][row]) + 1
            ids = arrays["history"][row, :end].copy()
            logprobs = arrays["logprobs"][row, begin:end].copy()
            score = float(logprobs.sum(dtype=np.float64))
            reason = "stop" if arrays["finished"][row] == AT_EOS else "length"
        text = None if detokenizer is None else detokenizer.decode(ids.tolist())
        sequences.append(GeneratedSequence(ids, text, score, logprobs, reason, begin))
    made = request.made
    timings = Timings(request.scheduled - made, request.first_token - made, time.monotonic() - made)
    return GenerateOutput(request.tokens.ids, tuple(sequences), request.tokens.truncated, timings)
