"""The state of the decoder's sequences: static buffers that the graphs share with the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from precast.graphs.generation_parameters import PARAMS
from precast.graphs.sampling import NO_SCORE, RUNNING, state_buffers
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.cpu.buffers import zeros
from precast.runtime.generation.sampling_params import SamplingParams


class DecoderState:
    """One tensor for each buffer of ``graphs.sampling.state_buffers``, and numpy views to write through.

    Args:
        limits: Limits of the artifact.
        tensors: Tensors on the host that hold zeros; allocated if None.
    """

    def __init__(self, limits: GenerateLimits, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.num_seqs = limits.max_num_seqs
        self.tensors: Mapping[str, Tensor] = tensors or {
            name: zeros(buffer.sizes(limits.state_sizes), buffer.torch_dtype)
            for name, buffer in state_buffers().items()
        }
        self.arrays: Mapping[str, np.ndarray] = {name: t.numpy() for name, t in self.tensors.items()}

    def begin(
        self,
        seq_ids: Sequence[int],
        params: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        """Write a request that starts.

        Args:
            seq_ids: Its sequences, one for each beam or sample.
            params: Its parameters.
            source_ids: int32 ``[n]``.
            self_slots: For each sequence the self-attention slots of its positions, int32 ``[max_length]``.
            cross_slots: The cross-attention slots of its source, int32 ``[n]``.
        """
        at, state = np.asarray(seq_ids), self.arrays
        prefix, count = np.asarray(params.prefix, np.int32), len(source_ids)
        state["tokens"][at] = prefix[0]
        state["positions"][at] = 0
        state["finished"][at] = RUNNING
        state["history"][at, : len(prefix)] = prefix
        state["logprobs"][at, : len(prefix)] = 0
        for seq_id, slots in zip(seq_ids, self_slots, strict=True):
            state["kv_slots"][seq_id, : len(slots)] = slots
            # Slots of the previous request may belong to another one by now, and hold NaN.
            state["kv_slots"][seq_id, len(slots) :] = 0
        state["cross_slots"][at, :count] = cross_slots
        state["cross_slots"][at, count:] = 0
        state["cross_lengths"][at] = count
        state["source_ids"][at, :count] = source_ids
        state["prefix_lengths"][at] = len(prefix)
        state["as_logprobs"][at] = int(params.mode == "beam")
        for param in PARAMS:
            if param.dtype is not None:
                state[param.name][at] = param.encode(params[param.name], len(at))
        self._write_hypotheses(at, prefix)

    def _write_hypotheses(self, at: np.ndarray, prefix: np.ndarray) -> None:
        state = self.arrays
        # All beams begin alike: only the first one counts until its continuations have filled them.
        state["beam_scores"][at] = NO_SCORE
        state["beam_scores"][at[0]] = 0
        state["hypothesis_scores"][at] = NO_SCORE
        # A rank that no hypothesis takes must not show the tokens of another request.
        state["hypotheses"][at, : len(prefix)] = prefix
        state["hypothesis_done"][at] = 0
        state["hypothesis_lengths"][at] = len(prefix)
        state["improvable"][at] = 1
