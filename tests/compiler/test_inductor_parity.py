"""One random model for each kind of encoder through AOTInductor, and the ways to store weights.

The models are always the same (``derandomize``), as each compiles for about ten seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    T5Config,
    T5EncoderModel,
)

import precast
from precast.artifacts.reader import read_manifest
from precast.compiler import pipeline
from precast.compiler.lowering import inductor_cpu
from precast.compiler.options import CompileOptions
from precast.graphs.encode import Task
from precast.graphs.graph_names import GraphName
from precast.runtime import Encoder
from precast.runtime.backends.graph_loader import open_graph
from precast.runtime.backends.inductor import InductorGraph
from tests.support.artifacts import MAX_BATCH, MAX_LENGTH, MAX_TOKENS, tiny_checkpoint, tiny_config
from tests.support.models import hf_outputs, save
from tests.support.strategies import batches

VOCAB = 61
ONCE = settings(
    max_examples=1, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def through_the_pipeline(model: PreTrainedModel, task: Task, **options: object) -> Encoder:
    """Compile ``model`` with the whole pipeline, including the parity check, and load it."""
    folder = Path(tempfile.mkdtemp(prefix="precast-test-"))
    precast.compile(save(model, folder / "model"), folder / "a.precast", task=task, **options)  # type: ignore[arg-type]
    return precast.Encoder.load(folder / "a.precast")


def assert_agree(
    engine: Encoder, model: PreTrainedModel, batch: list[list[int]], field: str, output: str
) -> None:
    expected = hf_outputs(model, batch, output)
    for ours, theirs in zip(engine.encode(batch), expected, strict=True):
        np.testing.assert_allclose(getattr(ours, field), theirs.numpy(), atol=1e-4, rtol=1e-4)


@ONCE
@given(
    hidden=st.sampled_from([24, 36]),
    depth=st.integers(2, 4),
    window=st.sampled_from([4, 8]),
    batch=batches(VOCAB, 40),
)
def test_hidden_states_with_windows_and_rotary_positions(
    hidden: int, depth: int, window: int, batch: list[list[int]]
) -> None:
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=VOCAB, hidden_size=hidden, num_attention_heads=3, num_hidden_layers=depth,
        intermediate_size=20, local_attention=window, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    model = ModernBertModel(config)
    with through_the_pipeline(model, "hidden") as engine:
        assert_agree(engine, model, batch, "hidden", "last_hidden_state")


@ONCE
@given(d_kv=st.sampled_from([5, 8]), gated=st.booleans(), batch=batches(VOCAB, 40))
def test_embeddings_with_a_relative_bias_and_bound_weights(
    d_kv: int, gated: bool, batch: list[list[int]]
) -> None:
    torch.manual_seed(0)
    projection = "gated-gelu" if gated else "relu"
    config = T5Config(
        vocab_size=VOCAB,
        d_model=24,
        d_kv=d_kv,
        d_ff=32,
        num_layers=2,
        num_heads=3,
        feed_forward_proj=projection,
    )
    model = T5EncoderModel(config)
    with through_the_pipeline(model, "embed", prepack=False) as engine:
        assert engine.manifest.graphs[GraphName.ENCODE].weights == "bound"
        expected = [hidden.mean(0).numpy() for hidden in hf_outputs(model, batch, "last_hidden_state")]
        np.testing.assert_allclose(engine.embed(batch), np.stack(expected), atol=1e-4, rtol=1e-4)


@ONCE
@given(groups=st.sampled_from([1, 2]), batch=batches(VOCAB, 40))
def test_sequence_logits_of_a_causal_model(groups: int, batch: list[list[int]]) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4 // groups, head_dim=6, max_position_embeddings=64, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    model = Qwen3ForSequenceClassification(config)
    with through_the_pipeline(model, "classify") as engine:
        assert_agree(engine, model, batch, "logits", "logits")


def test_weights_mapped_from_the_end_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """AOTInductor stores weights beyond 2 GB this way; it is forced for a small model."""
    configuration = inductor_cpu._Compile._configuration

    def mapped(compiling: inductor_cpu._Compile) -> dict[str, object]:
        return {**configuration(compiling), "aot_inductor.force_mmap_weights": True}

    monkeypatch.setattr(inductor_cpu._Compile, "_configuration", mapped)
    torch.manual_seed(0)
    model = BertModel(tiny_config())
    with through_the_pipeline(model, "hidden") as engine:
        assert_agree(engine, model, [[3, 4, 5], [7]], "hidden", "last_hidden_state")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_token_logits_in_both_dtypes(dtype: str) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=48,
        num_labels=5,
    )
    model = BertForTokenClassification(config)
    with through_the_pipeline(model, "token-classify", dtype=dtype) as engine:
        assert engine.manifest.build.dtype == dtype
        batch = [[3, 4, 5], [7], list(range(60))]
        logits = [output.logits for output in engine.encode(batch)]
        for ours, theirs in zip(logits, hf_outputs(model, batch, "logits"), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 if dtype == "fp32" else 0.1)


def test_a_cached_library_is_used_with_other_weights(compiled: Path, tmp_path: Path) -> None:
    """Even a bias of three numbers is a weight and not part of the code."""
    other = tiny_checkpoint("classify", tmp_path / "model", seed=5)
    limits = {"max_length": MAX_LENGTH, "max_tokens": MAX_TOKENS, "max_batch": MAX_BATCH}
    options = CompileOptions(str(other), tmp_path / "b", prepack=False, **limits)  # type: ignore[arg-type]
    result = pipeline.run(options)
    assert result.from_cache, "the cached library was not used"
    assert result.manifest.parity is not None
    assert "head.out.bias" in result.manifest.graphs[GraphName.ENCODE].constants


def test_a_graph_may_be_freed_while_a_model_is_traced(compiled: Path) -> None:
    """Garbage collection can happen at any time; freeing a graph must not become part of the trace."""
    held = [open_graph(compiled, read_manifest(compiled), GraphName.ENCODE)]
    assert isinstance(held[0], InductorGraph)
    weights = held[0]._bound

    class Traced(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            held.clear()
            return x + 1

    exported = torch.export.export(Traced(), (torch.zeros(3),), strict=False)
    assert [node.op for node in exported.graph.nodes] == ["placeholder", "call_function", "output"]
    assert weights and all(tensor.untyped_storage().nbytes() == 0 for tensor in weights)
