"""Compares a generation artifact with Hugging Face's ``generate``, through the runtime's own engine."""

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
from precast.compiler.verify.parity import TEXTS, check_errors, check_token_ids
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.io.tokens import Tokens

_MAX_SOURCE = 48
"""Longest source, in tokens: Hugging Face decodes without batches, which takes time."""
_MAX_STEPS = 8


@dataclass
class Recorder:
    """A logits processor that records the scores of every step and returns them unchanged.

    Attributes:
        scores: one array of fp32 ``[vocab]`` for each step.
    """

    scores: list[np.ndarray] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores[0].numpy().copy())
        return scores


def check_generation_parity(engine: Seq2Seq, checkpoint: Checkpoint) -> ParityInfo:
    """Compare logits and tokens of greedy requests with Hugging Face's, and both directions of the tokenizer.

    The requests run simultaneously and have different lengths, so they join and leave the batch while others
    decode. Hugging Face decodes each request alone and is given the same tokens.

    Returns:
        The largest errors of the logits over all steps, for the manifest.

    Raises:
        ParityError: The logits differ from Hugging Face's by more than the tolerance, a token does not have
            the best of Hugging Face's logits, or a text is tokenized or detokenized differently.
    """
    manifest = engine.manifest
    sources = random_sources(engine)
    steps = [min(_MAX_STEPS - index % 3, _max_new_tokens(engine)) for index in range(len(sources))]
    recorders = [Recorder() for _ in sources]
    outputs = _generate(engine, sources, steps, recorders)
    model = _oracle(checkpoint)
    expected = [
        logits_of(model, source, output.token_ids[:-1].tolist()).numpy()
        for source, output in zip(sources, outputs, strict=True)
    ]
    logits = [np.stack(recorder.scores) for recorder in recorders]
    info = check_errors(
        logits,
        expected,
        oracle=f"transformers {transformers.__version__}, fp32, each input alone, step by step",
        build=manifest.build,
        tokens=sum(map(len, logits)),
    )
    _check_tokens(outputs, expected, info.allowed_relative_error)
    _check_texts(engine, outputs, checkpoint)
    return info


def _generate(
    engine: Seq2Seq, sources: Sequence[list[int]], steps: Sequence[int], recorders: Sequence[Recorder]
) -> list[GenerateOutput]:
    """Generate greedily, without any of the logits processors that the checkpoint sets by default."""
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
    """Return sources of random token ids, with short, block-sized, longest and random lengths."""
    manifest = engine.manifest
    assert isinstance(manifest.limits, GenerateLimits)
    longest = min(manifest.limits.max_source_length, _MAX_SOURCE)
    random = np.random.default_rng(0)
    lengths = [1, 2, 15, 16, 17, longest, *random.integers(1, longest + 1, size=2)]
    vocab = manifest.model.vocab_size
    return [random.integers(0, vocab, size=min(int(n), longest)).tolist() for n in lengths]


def logits_of(model: PreTrainedModel, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Return Hugging Face's logits after each token of ``target``.

    The tokens are decoded one by one with a KV cache, as ``generate`` does: umT5 computes other logits if it
    is given all of them in one call.

    Args:
        model: An encoder-decoder.
        source: Token ids of the source.
        target: Token ids of the decoder, beginning with the start token.

    Returns:
        fp32 ``[len(target), vocab]``.
    """
    logits, cache = [], None
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
            logits.append(step.logits[0, -1].float())
    return torch.stack(logits)


def _max_new_tokens(engine: Seq2Seq) -> int:
    assert isinstance(engine.manifest.limits, GenerateLimits)
    return engine.manifest.limits.max_target_length - 1


def _oracle(checkpoint: Checkpoint) -> PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(
        checkpoint.path, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def _check_tokens(outputs: Sequence[GenerateOutput], expected: Sequence[np.ndarray], allowed: float) -> None:
    """Check that each token has the best of HF's logits, up to the allowed error of two logits."""
    largest = max(float(np.abs(logits).max()) for logits in expected)
    for output, logits in zip(outputs, expected, strict=True):
        tokens = output.token_ids[1:]
        gaps = logits.max(axis=1) - logits[np.arange(len(tokens)), tokens]
        if float(gaps.max()) > 2 * allowed * largest:
            step = int(gaps.argmax())
            raise ParityError(
                f"step {step} generated token {tokens[step]}, expected {int(logits[step].argmax())} by "
                f"Hugging Face's logits; nothing was written. Please report it"
            )


def _check_texts(engine: Seq2Seq, outputs: Sequence[GenerateOutput], checkpoint: Checkpoint) -> None:
    """Check that sources are tokenized, and outputs detokenized, as transformers does it."""
    manifest = engine.manifest
    if manifest.tokenization.file is None:
        return
    assert isinstance(manifest.limits, GenerateLimits)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    for text, encoded in zip(TEXTS, engine.encode(list(TEXTS)), strict=True):
        ids = tokenizer(text, truncation=True, max_length=manifest.limits.max_source_length)["input_ids"]
        check_token_ids(text, encoded.prompt_token_ids.tolist(), ids or [manifest.tokenization.empty_id])
    for output in outputs:
        expected = tokenizer.decode(output.token_ids.tolist(), skip_special_tokens=True)
        if output.text != expected:
            raise ParityError(
                f"the token ids {output.token_ids.tolist()} are detokenized to {output.text!r}, expected "
                f"{expected!r} as in transformers; nothing was written"
            )
