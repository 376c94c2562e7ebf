"""The rules that name tokens, of all active rows, as the table that the ``rules`` graph reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from precast.runtime.generation.sampling_params import Rule

_FIELDS = ("rows", "tokens", "firsts", "lasts", "afters", "prefix_lengths")


def rule_table(entries: Sequence[tuple[int, Rule]]) -> dict[str, Tensor]:
    """The buffers ``rule_*`` of ``graphs.choose.rules_signature``.

    Args:
        entries: a row of the logits, and a rule that holds for it.
    """
    # Spare entries, whose last length is 0, fill the table up to the least size of its axes.
    count = max(2, len(entries))
    width = max([2, *(len(rule.prefix) for _, rule in entries)])
    numbers = np.zeros((len(_FIELDS), count), np.int32)
    prefixes = np.zeros((count, width), np.int32)
    values = np.zeros(count, np.float32)
    for place, (row, rule) in enumerate(entries):
        numbers[:, place] = (row, rule.token, rule.first, rule.last, rule.after, len(rule.prefix))
        prefixes[place, : len(rule.prefix)] = rule.prefix
        values[place] = rule.value
    table = {f"rule_{name}": torch.from_numpy(numbers[at].copy()) for at, name in enumerate(_FIELDS)}
    return table | {
        "rule_prefixes": torch.from_numpy(prefixes),
        "rule_values": torch.from_numpy(values),
    }
