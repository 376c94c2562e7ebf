"""A graph that was compiled several times, each for batches of another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from precast.runtime.replay.interface import Graph


class VariantGraph:
    """Runs a batch on the first variant that holds it.

    Args:
        variants: the largest batch of each, in tokens, ascending; and the loaded graph.
    """

    def __init__(self, variants: Sequence[tuple[int, Graph]]) -> None:
        self._variants = tuple(variants)

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        tokens = inputs["input_ids"].shape[0]
        for limit, graph in self._variants:
            if tokens <= limit:
                return graph(inputs)
        # Batches are filled up to two tokens, also where the limits allow one.
        return self._variants[-1][1](inputs)
