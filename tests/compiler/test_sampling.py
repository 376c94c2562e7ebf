"""The ``choose.sample`` graph: what may be drawn is what Hugging Face's warpers leave, and the draw is fair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import LogitsProcessorList
from transformers.generation import logits_process as hf

from precast.compiler.model.choose.random import uniform
from precast.compiler.model.choose.sample import Sample
from precast.graphs.choose import sample_signature
from precast.graphs.generate import GenerateLimits
from precast.runtime.generation.state import RowState
from precast.runtime.generation.worker import GenerationWorker
from tests.support.choosing import Call, begin, buffers, integers, make_plan, portable
from tests.support.generation import Model, request
from tests.support.models import save
from tests.support.seq2seq_models import spread_t5

VOCAB = 8
ROWS = 6000
LIMITS = GenerateLimits(
    max_source_length=2, max_target_length=64, max_tokens=4, max_batch=2, max_rows=ROWS
)
SIGNATURE = sample_signature(LIMITS, VOCAB)
SEEN = 3e-3
"""What is drawn with a probability of this much is missed in all rows once in 10^7 times."""
NO_LUCK = 5.0
"""Standard deviations that a fair draw exceeds less than once in a million times."""
MARGIN = 1e-4

Call_ = dict[str, Any]


def draw(scores: Tensor, call: Call_, seeds: Sequence[int], position: int = 0, candidates: int = VOCAB) -> Drawn:
    """Every row draws from its own ``scores`` ``[R, VOCAB]``, by its own seed, behind ``position``."""
    return draw_by(Sample(), scores, [call] * len(seeds), seeds, position, candidates)
