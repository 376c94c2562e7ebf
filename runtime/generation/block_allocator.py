"""The places of a pool, dealt out a page at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class PagePool:
    """Which pages of a pool are free; the keys and values themselves lie elsewhere.

    Page 0 is never dealt out: spare tokens of a batch are written to its first places, which nobody reads.

    Args:
        pages: in the pool, page 0 included.
        page_size: places of a page; a place holds one token's keys and values.

    Raises:
        ValueError: fewer than two pages or less than one place a page, or more places than int32 can number.
    """

    def __init__(self, pages: int, page_size: int) -> None:
        if pages < 2 or page_size < 1 or pages * page_size > np.iinfo(np.int32).max:
            raise ValueError(
                f"a pool has at least 2 pages, of which the first is never dealt out, of at least 1 place, "
                f"and at most {np.iinfo(np.int32).max} places in all; found {pages} pages of {page_size}"
            )
        self.page_size = page_size
        self._pages = pages
        # A stack: a page that was written before is dealt out before one whose memory was never touched.
        self._free = list(range(pages - 1, 0, -1))
        self._used: set[int] = set()

    @property
    def capacity(self) -> int:
        """Pages that can be dealt out."""
        return self._pages - 1

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Pages that somebody holds."""
        return len(self._used)

    def pages_for(self, tokens: int) -> int:
        """Pages that so many tokens take.

        Raises:
            ValueError: ``tokens`` is negative.
        """
        if tokens < 0:
            raise ValueError(f"a number of tokens is at least 0; found {tokens}")
        return -(-tokens // self.page_size)

    def reserve(self, tokens: int) -> tuple[int, ...] | None:
        """Take pages enough for ``tokens`` tokens; None, and nothing is taken, if fewer are free.

        Raises:
            ValueError: ``tokens`` is negative.
        """
        count = self.pages_for(tokens)
        if count > len(self._free):
            return None
        pages = tuple(self._free.pop() for _ in range(count))
        self._used.update(pages)
        return pages

    def release(self, pages: Sequence[int]) -> None:
        """Give pages back.

        Raises:
            ValueError: one of them is not held, or is named twice; nothing was given back.
        """
        given = set(pages)
        if len(given) != len(pages) or not given <= self._used:
            raise ValueError(
                f"pages are given back once, by who holds them; found {sorted(given - self._used)} that "
                f"nobody holds and {len(pages) - len(given)} named twice; give back what reserve gave, once"
            )
        self._used -= given
        self._free.extend(reversed(pages))

    def places(self, pages: Sequence[int], tokens: int) -> np.ndarray:
        """Where the first ``tokens`` tokens lie that are stored in ``pages``.

        Args:
            pages: in the order in which they are filled; page 0 may be among them.
            tokens: at most what the pages hold.

        Returns:
            int32 ``[tokens]``: numbers of places.

        Raises:
            ValueError: the pages do not hold so many tokens.
        """
        if not 0 <= tokens <= len(pages) * self.page_size:
            raise ValueError(f"{len(pages)} pages of {self.page_size} places do not hold {tokens} tokens")
        starts = np.asarray(pages, np.int32).reshape(-1, 1) * np.int32(self.page_size)
        return (starts + np.arange(self.page_size, dtype=np.int32)).reshape(-1)[:tokens]
