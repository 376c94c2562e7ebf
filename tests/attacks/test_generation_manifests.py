"""Manifests of encoder-decoders that contradict their graphs, with a valid digest."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import precast
from precast.artifacts.errors import ArtifactError, ManifestError
from tests.attacks.tampering import Json, Tamper, change, copy_of, edit, refusal
from tests.support.models import save


def graph(name: str, alter: Callable[[Json], object]) -> Tamper:
    """Modify the entry of one graph; its name may have a dot, which ``change`` would split at."""
    return edit(lambda data: alter(data["graphs"][name]))


def two_variants(info: Json) -> None:
    smaller = {**copy.deepcopy(info["variants"][0]), "max_size": 3}
    info["variants"].insert(0, smaller)


ATTACKS: dict[str, tuple[Tamper, str]] = {
    "a missing graph": (edit(lambda d: d["graphs"].pop("logits_processors")), "expected the graphs"),
    "a graph by another name": (
        edit(lambda d: d["graphs"].update(encode=d["graphs"].pop("decode"))),
        "expected the graphs",
    ),
    "limits of an encoder": (
        change("limits", {"max_length": 20, "max_tokens": 64, "max_batch": 4}),
        r"limits\.max_source_length: Field required.*; and 1 more",
    ),
    "the output of an encoder": (
        change("output", {"kind": "hidden", "size": 16}),
        r"output\.kind: .*'generate'.*'hidden'",
    ),
    "the task of an encoder": (
        change("model.task", "hidden"),
        "the task hidden does not fit an output of kind generate",
    ),
    "the kind of an encoder": (change("kind", "encode"), r"limits\.max_length: Field required"),
    "an output without its kind": (edit(lambda d: d["output"].pop("kind")), "keys.*output.kind"),
    "a buffer without its role": (
        graph("decode", lambda g: g["signature"]["inputs"][1].pop("role")),
        r"keys.*graphs\.decode\.signature\.inputs\.1\.role",
    ),
    "a buffer of another role": (
        graph("decode", lambda g: g["signature"]["inputs"][1].update(role="input")),
        "inputs of graph decode .*role='input'.*role='state'",
    ),
    "an unknown role": (
        graph("decode", lambda g: g["signature"]["inputs"][1].update(role="pool")),
        "role.*'pool'",
    ),
    "a KV cache of more layers": (
        edit(lambda d: [d["output"][cache].update(layers=3) for cache in ("self_kv", "cross_kv")]),
        "inputs of graph encode_source .*cross_key_2",
    ),
    "a KV cache of too many layers": (change("output.self_kv.layers", 10**12), "up to 1024 layers"),
    "a self-attention cache of other heads": (
        change("output.self_kv.heads", 4),
        "graph decode.*'self_cache', 4",
    ),
    "a cross-attention cache of other heads": (
        change("output.cross_kv.heads", 4),
        "inputs of graph encode_source.*4",
    ),
    "a KV cache of another dtype": (
        edit(lambda d: [d["output"][cache].update(dtype="bfloat16") for cache in ("self_kv", "cross_kv")]),
        "inputs of graph encode_source.*bfloat16",
    ),
    "another vocabulary": (change("output.vocab_size", 48), "outputs of graph decode.*47.*48"),
    "another hidden size": (change("output.size", 17), "size 17, the model 16"),
    "more sequences": (change("limits.max_num_seqs", 7), "graph decode.*6.*7"),
    "longer targets": (change("limits.max_target_length", 13), "graph decode.*12.*13"),
    "longer sources": (change("limits.max_source_length", 21), "graph encode_source.*20.*21"),
    "an unknown default": (change("output.defaults.guidance_scale", 2.0), "guidance_scale"),
    "a default of another type": (change("output.defaults.num_beams", "4"), "num_beams"),
    "a default that is not a token id": (change("output.defaults.bos_token_id", -3), "bos_token_id"),
    "a missing written input": (
        graph("sample.greedy", lambda g: g["signature"]["written"].pop()),
        "written of graph sample.greedy",
    ),
    "graphs under each other's names": (
        edit(
            lambda d: d["graphs"].update(
                logits_processors=d["graphs"]["decode"], decode=d["graphs"]["logits_processors"]
            )
        ),
        "axes of graph decode",
    ),
    "buckets of another axis": (
        graph("sample.beam", lambda g: g["buckets"].update(axis="rows")),
        "buckets of graph sample.beam end at 6 rows, its limits at 6 groups",
    ),
    "buckets that end elsewhere": (
        graph("decode", lambda g: g["buckets"].update(sizes=[1, 2])),
        "buckets of graph decode end at 2",
    ),
    "a variant that ends before the limits": (
        graph("logits_processors", lambda g: g["variants"][0].update(max_size=3)),
        r"variants of graph logits_processors hold \[3\]",
    ),
    "two variants on a cpu": (graph("decode", two_variants), "graph decode has 2 variants"),
}


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact that tests copy and do not modify."""
    folder = tmp_path_factory.mktemp("generating")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=47, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    checkpoint = save(T5ForConditionalGeneration(config), folder / "model")
    precast.compile(
        checkpoint, folder / "a.precast", backend="reference", verify=False, max_length=20, max_tokens=64,
        max_batch=4, max_target_length=12, max_num_seqs=6,
    )  # fmt: skip
    return folder / "a.precast"


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, generating: Path, tmp_path: Path) -> None:
    tamper, message = ATTACKS[name]
    tampered = copy_of(generating, tmp_path)
    tamper(tampered)
    error = refusal(tampered)
    assert type(error) is ManifestError, f"expected a ManifestError, found {error!r}"
    assert re.search(message, str(error)), f"{message!r} is not in the message: {error}"
    assert len(str(error)) < 2000, "the message is too long to read"


def test_invalid_sizes_are_refused_with_an_artifact_error(generating: Path, tmp_path: Path) -> None:
    """The runtime allocates memory by these numbers."""
    for path in ("limits.max_num_seqs", "limits.max_tokens", "output.self_kv.head_dim", "output.vocab_size"):
        for value in (-1, 0, 10**30):
            folder = tmp_path / f"{path}{value}"
            folder.mkdir()
            tampered = copy_of(generating, folder)
            change(path, value)(tampered)
            assert isinstance(refusal(tampered), ArtifactError), f"{path} = {value}"
