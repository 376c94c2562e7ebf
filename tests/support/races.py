"""A race detector for streams: finds accesses to the same memory that no event orders.

Work on one stream is ordered. An event that one stream records and another waits for orders all work before
the record before all work after the wait. Work that the host has waited for precedes all work that it starts
later. Nothing else is ordered, whatever happened to run first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

Clock = dict[Hashable, int]
"""Number of pieces of work of each stream that are known to have finished."""


@dataclass(frozen=True)
class Access:
    """Bytes ``start`` to ``end`` of one block of memory."""

    block: Hashable
    start: int
    end: int
    write: bool


@dataclass
class Races:
    """Records all work in the order in which the host starts it."""

    host: Clock = field(default_factory=dict)
    _streams: dict[Hashable, Clock] = field(default_factory=dict)
    _accesses: dict[Hashable, list[tuple[Access, Hashable, int, str]]] = field(default_factory=dict)

    def work(self, stream: Hashable, what: str, accesses: Sequence[Access]) -> list[str]:
        """Add work to a stream; return a message for each earlier piece that it races with."""
        clock = self._clock(stream)
        clock[stream] = clock.get(stream, 0) + 1
        messages = []
        for access in accesses:
            earlier = self._accesses.setdefault(access.block, [])
            messages += [
                f"{what} is not ordered after {name}"
                for other, on, at, name in earlier
                if clock.get(on, 0) < at and _conflict(access, other)
            ]
            earlier.append((access, stream, clock[stream], what))
        return messages

    def record(self, stream: Hashable) -> Clock:
        return dict(self._clock(stream))

    def wait(self, stream: Hashable, event: Clock) -> None:
        _merge(self._clock(stream), event)

    def synchronize(self, event: Clock) -> None:
        _merge(self.host, event)

    def synchronize_all(self) -> None:
        for clock in self._streams.values():
            _merge(self.host, clock)

    def _clock(self, stream: Hashable) -> Clock:
        clock = self._streams.setdefault(stream, {})
        _merge(clock, self.host)
        return clock


def _conflict(one: Access, other: Access) -> bool:
    return (one.write or other.write) and one.start < other.end and other.start < one.end


def _merge(clock: Clock, other: Clock) -> None:
    for stream, at in other.items():
        clock[stream] = max(clock.get(stream, 0), at)
