"""A task that a T5 of real size learns in minutes: sort words and translate them.

With random weights the best token is hardly better than the next, so any rounding changes the output. A
trained model shows whether int8 quantization does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

SOURCE_LENGTH, TARGET_LENGTH = 40, 64
"""Tokens of a source, one word of each kind, and of its target; three kinds in five take two tokens."""
FIRST_WORD = 3
"""The lowest token id of a word; the measured models use lower ones as special tokens."""
WORDS_PER_KIND = 8
"""Number of words of each kind."""

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Training:
    """Training settings.

    Attributes:
        steps: optimizer steps.
        batch: sources per step.
        rate: peak learning rate of a one-cycle schedule.
        min_accuracy: token accuracy that the last step must reach.
    """

    steps: int
    batch: int = 16
    rate: float = 5e-4
    min_accuracy: float = 0.999


class Sorting:
    """The task: a fixed set of words with their order and translations.

    Args:
        vocab_size: size of the vocabulary, from which words and translations are sampled.

    Raises:
        ValueError: the vocabulary is too small for the words.
    """

    def __init__(self, vocab_size: int) -> None:
        kinds = [2 if kind % 5 < 3 else 1 for kind in range(SOURCE_LENGTH)]
        needed = WORDS_PER_KIND * (SOURCE_LENGTH + sum(kinds))
        if vocab_size < FIRST_WORD + needed:
            raise ValueError(
                f"expected a vocabulary of {FIRST_WORD + needed} tokens or more, got {vocab_size}"
            )
        ids = iter(random.Random(0).sample(range(FIRST_WORD, vocab_size), needed))
        self._kinds = [[next(ids) for _ in range(WORDS_PER_KIND)] for _ in kinds]
        self._translations = {
            word: [next(ids) for _ in range(length)]
            for words, length in zip(self._kinds, kinds, strict=True)
            for word in words
        }

    def sample(self, count: int, rng: random.Random) -> tuple[Sequences, Sequences]:
        """Return random sources of ``SOURCE_LENGTH`` tokens and their targets of ``TARGET_LENGTH``."""
        sources, targets = [], []
        for _ in range(count):
            words = [rng.choice(kind) for kind in self._kinds]
            targets.append(tuple(token for word in words for token in self._translations[word]))
            rng.shuffle(words)
            sources.append(tuple(words))
        return tuple(sources), tuple(targets)


def held_out(vocab_size: int, count: int) -> Sequences:
    """Return the sources that are measured: always the same ones, sampled independently of the training."""
    return Sorting(vocab_size).sample(count, random.Random("held out"))[0]


def train(model: PreTrainedModel, training: Training) -> None:
    """Train a model on the task with bf16 autocast; takes a few minutes.

    Args:
        model: an encoder-decoder with random weights.
        training: training settings.

    Raises:
        RuntimeError: the model does not reach ``training.min_accuracy``.
    """
    task, rng = Sorting(model.config.vocab_size), random.Random("training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, total_steps=training.steps, pct_start=0.1
    )
    accuracy = 0.0
    model.train()
    for _ in range(training.steps):
        sources, targets = map(_tensor, task.sample(training.batch, rng))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(input_ids=sources, labels=targets)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        accuracy = (output.logits.argmax(-1) == targets).float().mean().item()
    model.eval()
    if accuracy < training.min_accuracy:
        raise RuntimeError(
            f"expected a token accuracy of {training.min_accuracy:.1%} after {training.steps} steps, "
            f"found {accuracy:.1%}; train longer"
        )


def _tensor(sequences: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(sequences)
