"""Graphs with several variants: each batch runs on the first that is large enough."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import precast
from precast.artifacts.writer import file_info
from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import VariantGraph
from precast.runtime.replay import Graph
from tests.attacks.tampering import edit
from tests.support.artifacts import MAX_TOKENS, TinyModels


def telling(place: int) -> Graph:
    """A graph whose output is its own index."""
    return lambda inputs: [torch.tensor(place)]


@pytest.mark.parametrize(("tokens", "taken"), [(1, 0), (4, 0), (5, 1), (9, 1), (10, 2), (12, 2)])
def test_a_batch_runs_on_the_first_that_holds_it(tokens: int, taken: int) -> None:
    graph = VariantGraph([(limit, telling(place)) for place, limit in enumerate((4, 9, 11))])
    (found,) = graph({"input_ids": torch.zeros(tokens)})
    assert found == taken


def test_an_artifact_of_two_variants(tiny: TinyModels, tmp_path: Path) -> None:
    path = tmp_path / "two.precast"
    shutil.copytree(tiny["embed"].artifact, path)
    graphs = path / "graphs"
    shutil.copy(graphs / "encode.json", graphs / "encode.6.json")

    def split(data: dict) -> None:
        (one,) = data["graphs"]["encode"]["variants"]
        small = {**one, "file": "graphs/encode.6.json", "max_size": 6, "tuned_at": 6}
        data["graphs"]["encode"]["variants"] = [small, {**one, "max_size": MAX_TOKENS}]
        info = file_info(graphs / "encode.6.json")
        data["files"]["graphs/encode.6.json"] = info.model_dump()

    edit(split)(path)
    inputs = [[5, 6], [7] * 6, [8] * 7, list(range(5, 30))]
    with (
        precast.Encoder.load(path, batch_tokens=8) as two,
        precast.Encoder.load(tiny["embed"].artifact) as one,
    ):
        assert two.manifest.graphs[GraphName.ENCODE].variants[0].max_size == 6
        np.testing.assert_allclose(two.embed(inputs), one.embed(inputs), atol=1e-5)
