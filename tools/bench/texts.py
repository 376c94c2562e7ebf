"""The texts of the encoder benchmarks: short, mixed and long ones."""

from __future__ import annotations

_SENTENCES = (
    "The bridge was closed for repairs until the end of the month.",
    "She keeps a list of every bird she has seen since childhood.",
    "A cup of strong coffee is all he needs before the meeting.",
    "Prices rose faster than wages for the third year in a row.",
    "The museum opens at ten and is free on the first Sunday.",
    "Rain is expected in the north, with clear skies further south.",
    "They rebuilt the engine twice before it finally ran smoothly.",
    "The committee asked for more time to study the proposal.",
)


def texts(kind: str, count: int = 32) -> list[str]:
    """Return texts of one sentence (``short``), one to six (``mixed``) or twelve (``long``)."""
    length = {"short": lambda _: 1, "mixed": lambda i: i % 6 + 1, "long": lambda _: 12}[kind]
    return [
        " ".join(_SENTENCES[(index + step) % len(_SENTENCES)] for step in range(length(index)))
        for index in range(count)
    ]
