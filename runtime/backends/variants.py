"""A graph that was compiled several times, each for batches of another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from precast.runtime.replay import Graph


class VariantGraph:
    """Runs a batch on the first variant that holds it.

    Args:
        variants: the largest batch of each, ascending; and the loaded graph.
        sized_by: the input whose length is the size of a batch.
    """

    def __init__(self, variants: Sequence[tuple[int, Graph]], sized_by: str = "input_ids") -> None:
        self._variants = tuple(variants)
        self._sized_by = sized_by

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        size = inputs[self._sized_by].shape[0]
        for limit, graph in self._variants:
            if size <= limit:
                return graph(inputs)
        # Batches are filled up to two, also where the limits allow one.
        return self._variants[-1][1](inputs)
