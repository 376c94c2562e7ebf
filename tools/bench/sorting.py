"""A task that a T5 of real size learns in minutes: words in any order, to be sorted and translated.

Drawn weights leave the best token hardly better than the next, so that any rounding changes answers. A
trained model shows whether eight bits do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

SOURCE_LENGTH, TARGET_LENGTH = 40, 64
"""Tokens: one word of each kind; and their translations, of two tokens for three kinds in five."""
FIRST_WORD = 3
"""Token ids below it mean something to the models that are measured; words are drawn from here up."""
WORDS_PER_KIND = 8
"""Words of a kind."""

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Training:
    """How long a model is trained, and how.

    Attributes:
        steps: of the optimizer.
        batch: sources a step.
        rate: the highest learning rate; it rises to it and falls to nothing.
        min_accuracy: the share of tokens that the last step must get right.
    """

    steps: int
    batch: int = 16
    rate: float = 5e-4
    min_accuracy: float = 0.999


class Sorting:
    """The task: which words there are, their order and their translations, always the same ones.

    Args:
        vocab_size: of the model; words and their translations are tokens from all over it.

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

    def drawn(self, count: int, draw: random.Random) -> tuple[Sequences, Sequences]:
        """Sources of ``SOURCE_LENGTH`` tokens and their targets of ``TARGET_LENGTH``."""
        sources, targets = [], []
        for _ in range(count):
            words = [draw.choice(kind) for kind in self._kinds]
            targets.append(tuple(token for word in words for token in self._translations[word]))
            draw.shuffle(words)
            sources.append(tuple(words))
        return tuple(sources), tuple(targets)


def held_out(vocab_size: int, count: int) -> Sequences:
    """Sources that are measured: always the same ones, drawn apart from those of training."""
    return Sorting(vocab_size).drawn(count, random.Random("held out"))[0]


def train(model: PreTrainedModel, training: Training) -> None:
    """Teach ``model`` the task, in bf16 with weights in fp32; it takes a few minutes.

    Args:
        model: an encoder-decoder with drawn weights.
        training: how.

    Raises:
        RuntimeError: it has not learned it.
    """
    task, draw = Sorting(model.config.vocab_size), random.Random("training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, total_steps=training.steps, pct_start=0.1
    )
    right = 0.0
    model.train()
    for _ in range(training.steps):
        sources, targets = map(_tensor, task.drawn(training.batch, draw))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(input_ids=sources, labels=targets)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        right = (found.logits.argmax(-1) == targets).float().mean().item()
    model.eval()
    if right < training.min_accuracy:
        raise RuntimeError(
            f"expected {training.min_accuracy:.1%} of the tokens right after {training.steps} steps, "
            f"found {right:.1%}: train longer"
        )


def _tensor(sequences: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(sequences)
