"""Every graph of generation through AOTInductor, compared with the portable programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import precast
from precast.graphs.graph_names import GraphName
from tests.support.random_requests import write_t5

SOURCES = [[5, 9, 4, 30, 2], [7, 7, 3], list(range(2, 20)), [36], [11, 12, 13, 14]]
PARAMETERS: list[dict[str, Any]] = [
    {"max_new_tokens": 18},
    {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.5},
    {"max_new_tokens": 15, "do_sample": True, "seed": 5, "top_p": 0.9, "typical_p": 0.95, "min_p": 0.01},
    {
        "max_new_tokens": 14, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 6,
        "bad_words_ids": [[7], [8, 9]], "suppress_tokens": [20], "decoder_input_ids": [0, 6, 4],
    },
    {
        "max_new_tokens": 10, "num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 3,
        "encoder_no_repeat_ngram_size": 2, "forced_eos_token_id": 1, "renormalize_logits": True,
    },
]  # fmt: skip
"""Parameters that cover every graph and every logits processor."""


@pytest.mark.parametrize("prepack", [True, False], ids=["prepacked", "bound"])
def test_all_modes_through_inductor(prepack: bool, tmp_path: Path) -> None:
    checkpoint = write_t5(tmp_path / "checkpoint")
    compiled, portable = [
        _generate(checkpoint, tmp_path / backend, backend=backend, prepack=prepack)
        for backend in ("inductor", "reference")
    ]
    for ours, theirs in zip(compiled, portable, strict=True):
        assert [sequence.token_ids.tolist() for sequence in ours] == [
            sequence.token_ids.tolist() for sequence in theirs
        ]
        for sequence, reference in zip(ours, theirs, strict=True):
            assert sequence.score == pytest.approx(reference.score, rel=1e-4)
            np.testing.assert_allclose(sequence.logprobs, reference.logprobs, atol=1e-3)


def _generate(checkpoint: Path, artifact: Path, **options: Any) -> list[Any]:
    """Return the sequences of all requests, which run in one batch so that steps have all graphs."""
    limits: dict[str, Any] = {
        "max_length": 32,
        "max_target_length": 32,
        "max_num_seqs": 16,
        "max_tokens": 128,
        "max_batch": 8,
    }
    precast.compile(checkpoint, artifact, **limits, **options)
    with precast.Seq2Seq.load(artifact) as engine:
        encode_source = engine.manifest.graphs[GraphName.ENCODE_SOURCE]
        measured = 0 if encode_source.costs is None else len(encode_source.costs)
        assert measured == (len(encode_source.buckets.sizes) if options["backend"] == "inductor" else 0)
        assert engine.manifest.graphs[GraphName.DECODE].costs is None
        return [output.sequences for output in engine.generate(SOURCES, parameters=PARAMETERS)]
