"""A row of the speed table: a measured figure with its aim, its floor and figures of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Unit = Literal["ms", "s", "tokens/s", "x"]
_LESS_IS_BETTER = ("ms", "s")


@dataclass(frozen=True)
class Published:
    """A figure published by others, not measured here."""

    value: float
    who: str


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: description of the workload.
        measured: the median, in ``unit``.
        unit: unit of all figures of the row; ``x`` is a ratio.
        aim: the figure to reach.
        floor: the bound set by the device, see ``floors``; None if there is none.
        published: a figure published by others.
        peers: figures of peers measured in the same process, by name.
        details: spread and related figures.
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
        """Whether the aim is met; None if there is none."""
        if self.aim is None:
            return None
        return self.measured <= self.aim if self.unit in _LESS_IS_BETTER else self.measured >= self.aim

    @property
    def times_floor(self) -> float | None:
        """Ratio to the floor, at least 1 for times and for rates; None if there is no floor."""
        if not self.floor or not self.measured:
            return None
        ratio = self.measured / self.floor
        return rounded(ratio if self.unit in _LESS_IS_BETTER else 1 / ratio)

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON."""
        data = asdict(self) | {"met": self.met, "times_floor": self.times_floor}
        data["measured"] = rounded(self.measured)
        data["floor"] = None if self.floor is None else rounded(self.floor)
        data["peers"] = {name: rounded(value) for name, value in self.peers.items()}
        return data


def rounded(value: float) -> float:
    """Round to four significant digits; more would be noise."""
    return float(f"{value:.4g}")
