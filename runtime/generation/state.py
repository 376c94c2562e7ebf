"""The state of the decoder's rows: static buffers that the graphs share with the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from precast.graphs.sampling import EARLY_STOPPING, EOS_TOKENS, NO_SCORE, RUNNING, state_buffers
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.cpu.buffers import zeros
from precast.runtime.generation.sampling_params import SamplingParams


class DecoderState:
    """One tensor for each buffer of ``graphs.sampling.state_buffers``, and numpy views to write through.

    Args:
        limits: of the artifact.
        tensors: on the host, zeros; memory of its own where left out.
    """

    def __init__(self, limits: GenerateLimits, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.rows = limits.max_num_seqs
        self.tensors: Mapping[str, Tensor] = tensors or {
            name: zeros(buffer.sizes({}), buffer.torch_dtype)
            for name, buffer in state_buffers(limits).items()
        }
        self.arrays: Mapping[str, np.ndarray] = {name: t.numpy() for name, t in self.tensors.items()}

    def begin(
        self,
        rows: Sequence[int],
        plan: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        """Write a request that starts.

        Args:
            rows: its rows of state, one for each beam or sample.
            plan: what it asks for.
            source_ids: int32 ``[n]``.
            self_slots: for each row the slots in the self kv_cache of its positions, int32 ``[max_length]``.
            cross_slots: the slots of its source, int32 ``[n]``.
        """
        at, state = np.asarray(rows), self.arrays
        prefix, count = np.asarray(plan.prefix, np.int32), len(source_ids)
        state["tokens"][at] = prefix[0]
        state["positions"][at] = 0
        state["finished"][at] = RUNNING
        state["history"][at, : len(prefix)] = prefix
        state["logprobs"][at, : len(prefix)] = 0
        for row, slots in zip(rows, self_slots, strict=True):
            state["kv_slots"][row, : len(slots)] = slots
            # What its last owner saw there may be somebody else's by now, and no number.
            state["kv_slots"][row, len(slots) :] = 0
        state["cross_slots"][at, :count] = cross_slots
        state["cross_slots"][at, count:] = 0
        state["cross_lengths"][at] = count
        state["source_ids"][at, :count] = source_ids
        self._write_parameters(at, plan)
        self._write_beams(at, plan)

    def _write_parameters(self, at: np.ndarray, plan: SamplingParams) -> None:
        bos = plan.forced_bos_token_id
        values = {
            "prefix_lengths": len(plan.prefix),
            "max_lengths": plan.max_length,
            "eos_token_ids": _filled_up(plan.eos_token_ids),
            "as_logprobs": int(plan.mode == "beam"),
            "no_repeat_ngram_sizes": plan.no_repeat_ngram_size,
            "encoder_no_repeat_ngram_sizes": plan.encoder_no_repeat_ngram_size,
            "forced_bos_token_ids": -1 if bos is None else bos,
            "forced_eos_token_ids": _filled_up(plan.forced_eos_token_ids),
            "repetition_penalties": plan.repetition_penalty,
            # Hugging Face gives its processor the source once, so that it reaches the first row alone.
            "encoder_repetition_penalties": [plan.encoder_repetition_penalty] + [1.0] * (len(at) - 1),
            "temperatures": plan.temperature,
            "top_ks": plan.top_k,
            "top_ps": plan.top_p,
            "min_ps": plan.min_p,
            "typical_ps": plan.typical_p,
            "seeds": [plan.seed + index for index in range(len(at))],
        }
        for name, value in values.items():
            self.arrays[name][at] = value

    def _write_beams(self, at: np.ndarray, plan: SamplingParams) -> None:
        state = self.arrays
        state["length_penalties"][at] = plan.length_penalty
        state["early_stoppings"][at] = EARLY_STOPPING[plan.early_stopping]
        state["renormalize_logits"][at] = int(plan.renormalize_logits)
        # All beams begin alike: the others must not count until the first one has filled them.
        state["beam_scores"][at] = NO_SCORE
        state["beam_scores"][at[0]] = 0
        state["hypothesis_scores"][at] = NO_SCORE
        # A place that no hypothesis comes to must not show what another request left there.
        state["hypotheses"][at, : len(plan.prefix)] = plan.prefix
        state["hypothesis_done"][at] = 0
        state["hypothesis_lengths"][at] = len(plan.prefix)
        state["improvable"][at] = 1


def _filled_up(token_ids: Sequence[int]) -> list[int]:
    return [*token_ids, *[-1] * (EOS_TOKENS - len(token_ids))]
