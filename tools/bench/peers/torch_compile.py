"""``torch.compile`` of Hugging Face's model, compiled once for batches of any size."""

from __future__ import annotations

from functools import partial

from precast.tools.bench.peers.contender import UnsupportedTask, Contender, Subject
from precast.tools.bench.peers.hugging_face import NEEDS, encoder_engine


def contenders(subject: Subject) -> list[Contender]:
    """bf16, its faster form."""
    if subject.task == "generate":
        raise UnsupportedTask("torch.compile takes a module, and generate is a loop around one")
    make = partial(encoder_engine, subject, "bf16", "inductor")
    return [Contender("torch.compile bf16", "compile", "bf16", make, NEEDS)]
