"""A row of the speed table: what was measured, beside its aim, its floor and others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Unit = Literal["ms", "s", "tokens/s", "x"]
_LESS_IS_BETTER = ("ms", "s")


@dataclass(frozen=True)
class Published:
    """Somebody else's figure, measured by them, not here."""

    value: float
    who: str


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: what was measured.
        measured: the median, in ``unit``.
        unit: of all figures of the row; ``x`` is a ratio.
        aim: what we set out for.
        floor: the best that the device allows, see ``floors``; None where that has no meaning.
        published: of others.
        peers: what others did in the same process, in the same unit.
        details: spread, other ways of measuring the same.
    """

    name: str
    measured: float
    unit: Unit
    aim: float | None = None
    floor: float | None = None
    published: Published | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.aim is None:
            return None
        return self.measured <= self.aim if self.unit in _LESS_IS_BETTER else self.measured >= self.aim

    @property
    def times_floor(self) -> float | None:
        """How far from the floor: 1 is there, whatever the unit."""
        if not self.floor or not self.measured:
            return None
        ratio = self.measured / self.floor
        return rounded(ratio if self.unit in _LESS_IS_BETTER else 1 / ratio)

    def plain(self) -> dict[str, Any]:
        """For the result file."""
        data = asdict(self) | {"met": self.met, "times_floor": self.times_floor}
        data["measured"] = rounded(self.measured)
        data["floor"] = None if self.floor is None else rounded(self.floor)
        data["peers"] = {name: rounded(value) for name, value in self.peers.items()}
        return data


def rounded(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")
