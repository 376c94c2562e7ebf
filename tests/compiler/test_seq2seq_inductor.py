"""``encode_source`` and ``decode`` through AOTInductor: in-place KV cache updates, and logits against HF."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from precast.artifacts.writer import file_info
from precast.compiler.targets.registry import get_target
from precast.compiler.targets.target import LoweringOptions
from precast.compiler.verify.generation_parity import logits_of
from precast.graphs.signature import Signature
from precast.runtime.backends.inductor import InductorGraph
from tests.support.models import assert_close, save
from tests.support.seq2seq import ManualSeq2Seq

VOCAB = 47


def compiled_graph(
    folder: Path, target: str, prepack: bool, module: nn.Module, signature: Signature
) -> InductorGraph:
    """Return ``module`` compiled to a shared library, with weights bound or prepacked."""
    library_folder = folder / signature.graph
    library_folder.mkdir()
    backend = get_target(target).backend(LoweringOptions("fp32", prepack, False, None))
    lowered = backend.compile(module.eval(), signature, 12, library_folder)
    state = module.state_dict()
    weights = None if prepack else {name: state[name].contiguous() for name in lowered.constants}
    return InductorGraph(lowered.path, signature, weights, file_info(lowered.path).sha256)


@pytest.mark.parametrize("prepack", [True, False], ids=["prepacked", "bound"])
@pytest.mark.parametrize("target", ["cpu", "cpu-avx512"])
def test_steps_through_inductor(target: str, prepack: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=2, num_heads=2,
        initializer_factor=2.0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    checkpoint = save(model, tmp_path / "model")
    engine = ManualSeq2Seq(checkpoint, 0, partial(compiled_graph, tmp_path, target, prepack), target)
    sources = {0: [5, 6, 7], 1: [8], 2: list(range(10, 27))}
    engine.encode_sources({seq_id: sources[seq_id] for seq_id in (0, 2)})
    engine.encode_sources({1: sources[1]})
    target_ids = [0, 9, 11, 9, 30]
    outputs: dict[int, list[torch.Tensor]] = {seq_id: [] for seq_id in sources}
    for token in target_ids:
        for seq_id, logits in engine.step(dict.fromkeys(sources, token)).items():
            outputs[seq_id].append(logits)
    engine.fork(2, 7)
    continued = engine.step({7: 3, 2: 4})
    for seq_id, source in sources.items():
        assert_close(outputs[seq_id], list(logits_of(model, source, target_ids)))
    for seq_id, token in ((7, 3), (2, 4)):
        assert_close([continued[seq_id]], [logits_of(model, sources[2], [*target_ids, token])[-1]])
