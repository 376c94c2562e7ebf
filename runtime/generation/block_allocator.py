"""The slots of a cache, dealt out a block at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BlockAllocator:
    """Which blocks of a cache are free; the keys and values themselves lie elsewhere.

    Block 0 is never dealt out: spare tokens of a batch are written to its first slots, which nobody reads.

    Args:
        blocks: in the cache, block 0 included.
        block_size: slots of a block; a place holds one token's keys and values.

    Raises:
        ValueError: fewer than two blocks or less than one place a block, or more slots than int32 can number.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        if blocks < 2 or block_size < 1 or blocks * block_size > np.iinfo(np.int32).max:
            raise ValueError(
                f"a cache has at least 2 blocks, of which the first is never dealt out, of at least 1 place, "
                f"and at most {np.iinfo(np.int32).max} slots in all; found {blocks} blocks of {block_size}"
            )
        self.block_size = block_size
        self._blocks = blocks
        # A stack: a block that was written before is dealt out before one whose memory was never touched.
        self._free = list(range(blocks - 1, 0, -1))
        self._used: set[int] = set()

    @property
    def capacity(self) -> int:
        """Blocks that can be dealt out."""
        return self._blocks - 1

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._used)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens take.

        Raises:
            ValueError: ``tokens`` is negative.
        """
        if tokens < 0:
            raise ValueError(f"a number of tokens is at least 0; found {tokens}")
        return -(-tokens // self.block_size)

    def reserve(self, tokens: int) -> tuple[int, ...] | None:
        """Take blocks enough for ``tokens`` tokens; None, and nothing is taken, if fewer are free.

        Raises:
            ValueError: ``tokens`` is negative.
        """
        count = self.blocks_for(tokens)
        if count > len(self._free):
            return None
        blocks = tuple(self._free.pop() for _ in range(count))
        self._used.update(blocks)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back.

        Raises:
            ValueError: one of them is not held, or is named twice; nothing was given back.
        """
        given = set(blocks)
        if len(given) != len(blocks) or not given <= self._used:
            raise ValueError(
                f"blocks are given back once, by who holds them; found {sorted(given - self._used)} that "
                f"nobody holds and {len(blocks) - len(given)} named twice; give back what reserve gave, once"
            )
        self._used -= given
        self._free.extend(reversed(blocks))

    def slots(self, blocks: Sequence[int], tokens: int) -> np.ndarray:
        """Where the first ``tokens`` tokens lie that are stored in ``blocks``.

        Args:
            blocks: in the order in which they are filled; block 0 may be among them.
            tokens: at most what the blocks hold.

        Returns:
            int32 ``[tokens]``: numbers of slots.

        Raises:
            ValueError: the blocks do not hold so many tokens.
        """
        if not 0 <= tokens <= len(blocks) * self.block_size:
            raise ValueError(f"{len(blocks)} blocks of {self.block_size} slots do not hold {tokens} tokens")
        starts = np.asarray(blocks, np.int32).reshape(-1, 1) * np.int32(self.block_size)
        return (starts + np.arange(self.block_size, dtype=np.int32)).reshape(-1)[:tokens]
