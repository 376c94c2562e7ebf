"""Holding a generation artifact against Hugging Face, through the very engine that will serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from precast.artifacts.manifest import GenerateInfo, ParityInfo
from precast.compiler.errors import ParityError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.verify.parity import TEXTS, check_token_ids, judged
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.io.tokens import Tokens

_LONGEST = 48
_STEPS = 8


@dataclass
class Recorder:
    """A logits processor that keeps what it sees."""

    seen: list[np.ndarray] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores[0].numpy().copy())
        return scores


def check_generation_parity(engine: Seq2Seq, checkpoint: Checkpoint) -> ParityInfo:
    """Compare the logits of every step of some greedy answers, every token, and texts both ways.

    The requests run at the same time, so that they join and leave while others decode. Hugging Face decodes
    each alone, fed with the same tokens.

    Raises:
        ParityError: logits are further from HF's than the dtype explains, a token is not the best one, or a
            text is tokenized or written in another way.
    """
    manifest = engine.manifest
    sources = random_sources(engine)
    steps = [min(_STEPS - place % 3, _most_steps(engine)) for place in range(len(sources))]
    recorders = [Recorder() for _ in sources]
    outputs = _generate(engine, sources, steps, recorders)
    model = _oracle(checkpoint)
    expected = [
        logits_of(model, source, output.token_ids[:-1].tolist()).numpy()
        for source, output in zip(sources, outputs, strict=True)
    ]
    found = [np.stack(recorder.seen) for recorder in recorders]
    info = judged(
        found,
        expected,
        oracle=f"transformers {transformers.__version__}, fp32, each input alone, step by step",
        build=manifest.build,
        tokens=sum(map(len, found)),
    )
    _check_tokens(outputs, expected, info.allowed_relative_error)
    _check_texts(engine, outputs, checkpoint)
    return info


def _generate(
    engine: Seq2Seq, sources: Sequence[list[int]], steps: Sequence[int], recorders: Sequence[Recorder]
) -> list[GenerateOutput]:
    """Greedy, with nothing between the model's logits and the choice, whatever the checkpoint's defaults."""
    manifest = engine.manifest
    assert isinstance(manifest.output, GenerateInfo) and isinstance(manifest.limits, GenerateLimits)
    start = resolve(manifest.output.defaults, manifest.limits, manifest.output.vocab_size, {}, None).prefix
    requests = [
        Request(
            Tokens(np.array(source, np.int32), None),
            SamplingParams("greedy", 1, 1, start, len(start) + count, eos_token_ids=()),
            processors=[recorder],
        )
        for source, count, recorder in zip(sources, steps, recorders, strict=True)
    ]
    return [future.result() for future in engine.queue(requests)]


def random_sources(engine: Seq2Seq) -> list[list[int]]:
    """Token ids of drawn lengths: one, both sides of a page, the longest that is still quick."""
    manifest = engine.manifest
    assert isinstance(manifest.limits, GenerateLimits)
    longest = min(manifest.limits.max_source_length, _LONGEST)
    random = np.random.default_rng(0)
    lengths = [1, 2, 15, 16, 17, longest, *random.integers(1, longest + 1, size=2)]
    vocab = manifest.model.vocab_size
    return [random.integers(0, vocab, size=min(int(n), longest)).tolist() for n in lengths]


def logits_of(model: PreTrainedModel, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Hugging Face's logits after each token of ``target``, fp32 ``[n, vocab]``.

    Token by token with its cache, as ``generate`` does it: umT5 gives others when it is given all at once.
    """
    rows, cache = [], None
    with torch.no_grad():
        encoded = model.get_encoder()(torch.tensor([list(source)]))
        for token in target:
            step = model(
                encoder_outputs=encoded,
                decoder_input_ids=torch.tensor([[token]]),
                past_key_values=cache,
                use_cache=True,
            )
            cache = step.past_key_values
            rows.append(step.logits[0, -1].float())
    return torch.stack(rows)


def _most_steps(engine: Seq2Seq) -> int:
    assert isinstance(engine.manifest.limits, GenerateLimits)
    return engine.manifest.limits.max_target_length - 1


def _oracle(checkpoint: Checkpoint) -> PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(
        checkpoint.path, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def _check_tokens(outputs: Sequence[GenerateOutput], expected: Sequence[np.ndarray], allowed: float) -> None:
    """Each chosen token must be the best of HF's logits, or as good but for what the dtype explains."""
    largest = max(float(np.abs(logits).max()) for logits in expected)
    for output, logits in zip(outputs, expected, strict=True):
        tokens = output.token_ids[1:]
        short = logits.max(axis=1) - logits[np.arange(len(tokens)), tokens]
        if float(short.max()) > 2 * allowed * largest:
            step = int(short.argmax())
            raise ParityError(
                f"step {step} chose token {tokens[step]}, Hugging Face's best is "
                f"{int(logits[step].argmax())}; nothing was written. Please report it"
            )


def _check_texts(engine: Seq2Seq, outputs: Sequence[GenerateOutput], checkpoint: Checkpoint) -> None:
    """Sources are tokenized, and targets written, as transformers does it."""
    manifest = engine.manifest
    if manifest.tokenization.file is None:
        return
    assert isinstance(manifest.limits, GenerateLimits)
    theirs = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    for text, encoded in zip(TEXTS, engine.encode(list(TEXTS)), strict=True):
        ids = theirs(text, truncation=True, max_length=manifest.limits.max_source_length)["input_ids"]
        check_token_ids(text, encoded.prompt_token_ids.tolist(), ids or [manifest.tokenization.empty_id])
    for output in outputs:
        expected = theirs.decode(output.token_ids.tolist(), skip_special_tokens=True)
        if output.text != expected:
            raise ParityError(
                f"the token ids {output.token_ids.tolist()} are written as {output.text!r}, transformers "
                f"gives {expected!r}; nothing was written"
            )
