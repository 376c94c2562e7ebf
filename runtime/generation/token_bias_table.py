"""The token_biases that name tokens, of all active rows, as the table that the ``token_biases`` graph reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from precast.runtime.generation.sampling_params import TokenBias

_FIELDS = ("rows", "tokens", "firsts", "lasts", "afters", "prefix_lengths")


def token_bias_table(entries: Sequence[tuple[int, TokenBias]]) -> dict[str, Tensor]:
    """The buffers ``bias_*`` of ``graphs.sampling.logits_processors_signature``.

    Args:
        entries: a row of the logits, and a bias that holds for it.
    """
    # Spare entries, whose last length is 0, fill the table up to the least size of its axes.
    count = max(2, len(entries))
    width = max([2, *(len(bias.prefix) for _, bias in entries)])
    numbers = np.zeros((len(_FIELDS), count), np.int32)
    prefixes = np.zeros((count, width), np.int32)
    values = np.zeros(count, np.float32)
    for place, (row, bias) in enumerate(entries):
        numbers[:, place] = (row, bias.token, bias.first, bias.last, bias.after, len(bias.prefix))
        prefixes[place, : len(bias.prefix)] = bias.prefix
        values[place] = bias.value
    table = {f"bias_{name}": torch.from_numpy(numbers[at].copy()) for at, name in enumerate(_FIELDS)}
    return table | {
        "bias_prefixes": torch.from_numpy(prefixes),
        "bias_values": torch.from_numpy(values),
    }
