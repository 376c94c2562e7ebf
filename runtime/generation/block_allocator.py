"""Allocation of KV cache slots, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BlockAllocator:
    """Keeps track of the free blocks of a KV cache; keys and values are stored elsewhere.

    Block 0 is spare and never allocated: padding tokens of a batch are written to its first slots.

    Args:
        blocks: Number of blocks, block 0 included.
        block_size: Slots of a block; a slot holds one token's keys and values.

    Raises:
        ValueError: Fewer than two blocks, less than one slot a block, or more slots than int32 can number.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        if blocks < 2 or block_size < 1 or blocks * block_size > np.iinfo(np.int32).max:
            raise ValueError(
                f"a KV cache needs at least 2 blocks, of which the first is spare, of at least 1 slot, "
                f"and at most {np.iinfo(np.int32).max} slots in all; found {blocks} blocks of {block_size}"
            )
        self.block_size = block_size
        self._blocks = blocks
        # A stack: a block that was used before is allocated again before untouched memory.
        self._free = list(range(blocks - 1, 0, -1))
        self._used: set[int] = set()

    @property
    def capacity(self) -> int:
        """Blocks that can be allocated."""
        return self._blocks - 1

    @property
    def free(self) -> int:
        """Blocks that are not allocated."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks that are allocated."""
        return len(self._used)

    def blocks_for(self, tokens: int) -> int:
        """Return the number of blocks for ``tokens`` tokens.

        Raises:
            ValueError: ``tokens`` is negative.
        """
        if tokens < 0:
            raise ValueError(f"a number of tokens is at least 0; found {tokens}")
        return -(-tokens // self.block_size)

    def reserve(self, tokens: int) -> tuple[int, ...] | None:
        """Allocate the blocks for ``tokens`` tokens; returns None if too few are free.

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
        """Free blocks.

        Raises:
            ValueError: One of them is not allocated, or occurs twice; none was freed.
        """
        freed = set(blocks)
        if len(freed) != len(blocks) or not freed <= self._used:
            raise ValueError(
                f"expected allocated blocks, each once; found {sorted(freed - self._used)} that are not "
                f"allocated and {len(blocks) - len(freed)} repeated; free what reserve returned, once"
            )
        self._used -= freed
        self._free.extend(reversed(blocks))

    def slots(self, blocks: Sequence[int], tokens: int) -> np.ndarray:
        """Return the slots of the first ``tokens`` tokens in ``blocks``.

        Args:
            blocks: Blocks in the order in which they are filled; block 0 may be among them.
            tokens: Number of tokens, at most what the blocks hold.

        Returns:
            int32 ``[tokens]``: slot numbers.

        Raises:
            ValueError: The blocks do not hold that many tokens.
        """
        if not 0 <= tokens <= len(blocks) * self.block_size:
            raise ValueError(f"{len(blocks)} blocks of {self.block_size} slots do not hold {tokens} tokens")
        starts = np.asarray(blocks, np.int32).reshape(-1, 1) * np.int32(self.block_size)
        return (starts + np.arange(self.block_size, dtype=np.int32)).reshape(-1)[:tokens]
