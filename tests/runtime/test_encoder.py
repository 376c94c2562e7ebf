"""``Encoder``: its methods, its queue, its threads, and the modules that it does not import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, pipeline

import precast
from precast.runtime import Encoder
from precast.runtime.errors import EngineClosedError, InputError, InputTooLongError, TaskError
from tests.support.artifacts import VOCABULARY, tiny_tokenizer
from tests.support.models import save

TEXTS = ["the cat sits", "a dog", "", "the big red house on the tree", [2, 7, 9, 3], np.array([2, 8, 3])]
LABELS = {0: "small", 1: "big", 2: "red"}


def config(**options: object) -> BertConfig:
    torch.manual_seed(5)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, **sizes, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints with tokenizers, and their artifacts."""
    root = tmp_path_factory.mktemp("encoder")
    save(BertModel(config()), root / "model")
    save(BertForSequenceClassification(config(id2label=LABELS)), root / "classifier")
    for name, task in (("model", "embed"), ("classifier", "auto")):
        tiny_tokenizer(64).save_pretrained(root / name)
        precast.compile(root / name, root / f"{name}.precast", task=task, backend="reference")  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Encoder]:
    with precast.Encoder.load(folder / "model.precast") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Iterator[Encoder]:
    with precast.Encoder.load(folder / "classifier.precast") as loaded:
        yield loaded


def test_texts_and_token_ids_may_be_mixed(engine: Encoder) -> None:
    found = engine.embed(TEXTS)
    assert found.shape == (6, 24) and found.dtype == np.float32 and np.isfinite(found).all()
    for value, row in zip(TEXTS, found, strict=True):
        assert engine.embed(value).shape == (24,)
        np.testing.assert_allclose(engine.embed(value), row, atol=1e-6)


def test_an_empty_list_gives_an_empty_result(engine: Encoder, classifier: Encoder) -> None:
    assert engine.embed([]).shape == (0, 24)
    assert engine.encode([]) == [] and classifier.classify([]) == []
    assert classifier.predict([]).shape == (0, 3)


def test_outputs_are_copies(engine: Encoder) -> None:
    first = engine.encode("the cat").embedding
    kept = first.copy()
    first[:] = 7
    engine.embed(["a dog", "the house"])
    np.testing.assert_array_equal(engine.encode("the cat").embedding, kept)


def test_truncation_is_hugging_faces(folder: Path, engine: Encoder) -> None:
    text = "the cat runs and " * 40
    for side in ("left", "right"):
        theirs = AutoTokenizer.from_pretrained(folder / "model", truncation_side=side)
        expected = theirs(text, truncation=True, max_length=64)["input_ids"]
        found = engine.encode(text, truncate=side)
        assert found.prompt_token_ids.tolist() == expected and found.truncated
    assert (
        engine.encode(text).prompt_token_ids.tolist()
        == engine.encode(text, truncate="right").prompt_token_ids.tolist()
    )
    ids = list(range(5, 45)) * 2
    assert engine.encode(ids, truncate="left").prompt_token_ids.tolist() == ids[-64:]
    for value in (text, ids):
        with pytest.raises(InputTooLongError, match="input 1: .* tokens, the artifact takes 64"):
            engine.embed(["a", value], truncate=False)


def test_an_invalid_input_does_not_affect_others(engine: Encoder) -> None:
    found = engine.embed(["the cat", [10**6], "a dog", None], return_exceptions=True)
    assert isinstance(found[1], InputError) and found[1].index == 1
    assert isinstance(found[3], InputError) and found[3].index == 3
    np.testing.assert_allclose(found[0], engine.embed("the cat"), atol=1e-6)
    np.testing.assert_allclose(found[2], engine.embed("a dog"), atol=1e-6)
    with pytest.raises(InputError, match="input 1"):
        engine.embed(["the cat", [10**6]])


def test_classify_is_the_pipeline_of_transformers(folder: Path, classifier: Encoder) -> None:
    theirs = pipeline("text-classification", str(folder / "classifier"), device="cpu")
    texts = [text for text in TEXTS if isinstance(text, str)]
    for found, expected in zip(classifier.classify(texts), theirs(texts), strict=True):
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    for function in ("softmax", "sigmoid", "none"):
        found = classifier.classify("the cat", top_k=None, function_to_apply=function)
        expected = theirs("the cat", top_k=None, function_to_apply=function)
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
        assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-5)


def test_pairs_carry_token_types(folder: Path, classifier: Encoder) -> None:
    pair = ("the cat", "a big dog")
    theirs = AutoTokenizer.from_pretrained(folder / "classifier")(*pair, return_tensors="pt")
    model = BertForSequenceClassification.from_pretrained(folder / "classifier").eval()
    with torch.no_grad():
        expected = model(**theirs).logits[0].numpy()
    found = classifier.encode([pair, "a"])
    np.testing.assert_allclose(found[0].logits, expected, atol=1e-5)
    assert found[0].prompt_token_ids.tolist() == theirs["input_ids"][0].tolist()


def test_a_method_of_another_task_says_so(engine: Encoder, classifier: Encoder) -> None:
    with pytest.raises(TaskError, match="--task embed, this one is classify"):
        classifier.embed("a")
    with pytest.raises(TaskError, match="this one is embed"):
        engine.classify("a")
    with pytest.raises(TaskError, match="one label, this one has 3"):
        classifier.rank("a", ["b"])


def test_many_threads_get_their_own_outputs(engine: Encoder) -> None:
    expected = {n: engine.embed([5 + n, 6]) for n in range(40)}
    barrier = threading.Barrier(8)

    def ask(n: int) -> np.ndarray:
        if n < 8:
            barrier.wait()
        result: np.ndarray = engine.embed([5 + n, 6])
        return result

    with ThreadPoolExecutor(8) as threads:
        for n, found in enumerate(threads.map(ask, range(40))):
            np.testing.assert_allclose(found, expected[n], atol=1e-6)


def test_submit_and_asyncio_return_the_same(engine: Encoder) -> None:
    expected = engine.embed(TEXTS)
    futures = [engine.submit(value) for value in TEXTS]
    for future, row in zip(futures, expected, strict=True):
        found = future.result().embedding
        assert found is not None
        np.testing.assert_allclose(found, row, atol=1e-6)

    async def ask() -> list[np.ndarray]:
        return list(await asyncio.gather(*(engine.aio().embed(value) for value in TEXTS)))

    for output, row in zip(asyncio.run(ask()), expected, strict=True):
        np.testing.assert_allclose(output, row, atol=1e-6)


def test_a_long_list_keeps_its_order(engine: Encoder) -> None:
    values = [[5 + n % 30] * (1 + n * 7 % 50) for n in range(700)]
    found = engine.embed(values)
    for place in range(0, 700, 97):
        np.testing.assert_allclose(found[place], engine.embed(values[place]), atol=1e-6)


def test_stats(folder: Path) -> None:
    with precast.Encoder.load(folder / "model.precast") as fresh:
        fresh.embed([[5, 6], [7]])
        stats = fresh.stats()
        assert (stats.requests, stats.tokens, stats.waiting, stats.failed) == (2, 3, 0, 0)


def test_a_closed_engine_raises_and_can_be_closed_again(folder: Path) -> None:
    engine = precast.Encoder.load(folder / "model.precast")
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.embed("the cat")


def test_serving_imports_no_compiler(tmp_path: Path, folder: Path) -> None:
    """Run in a new process, with a graph that Inductor compiled."""
    precast.compile(folder / "model", tmp_path / "a", task="embed")
    script = (
        "import sys, precast.runtime as r\n"
        "e = r.load(sys.argv[1]); assert e.embed('the cat').shape == (24,); e.close()\n"
        "bad = ('transformers', 'triton', 'torch._inductor', 'torch._dynamo', 'precast.compiler', 'rich')\n"
        "print([name for name in bad if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
