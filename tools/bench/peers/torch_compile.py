"""``torch.compile`` of the Hugging Face model with dynamic shapes."""

from __future__ import annotations

from functools import partial

from precast.tools.bench.peers.contender import Contender, Subject, UnsupportedTask
from precast.tools.bench.peers.hugging_face import NEEDS, encoder_engine


def contenders(subject: Subject) -> list[Contender]:
    """Return one contender in bf16, which is faster than fp32."""
    if subject.task == "generate":
        raise UnsupportedTask("torch.compile compiles a module, not the loop of generate")
    make = partial(encoder_engine, subject, "bf16", "inductor")
    return [Contender("torch.compile bf16", "compile", "bf16", make, NEEDS)]
