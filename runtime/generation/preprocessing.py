"""From what a caller passes to requests: tokenized, every parameter resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precast.artifacts.manifest import GenerateInfo, Manifest
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.errors import InputError, OptionError
from precast.runtime.generation.request import GenerateRequest, LogitsProcessor
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.generation.validation import wrong
from precast.runtime.io.detokenization import Detokenizer, TextStream
from precast.runtime.io.inputs import Item, parse_without_pairs
from precast.runtime.io.tokenization import TextTokenizer, Truncate
from precast.runtime.io.tokens import Tokens


@dataclass(frozen=True)
class Options:
    """The options of one input, those that say how to generate apart."""

    truncate: Truncate = True
    src_lang: str | None = None
    tgt_lang: str | None = None
    decoder_input_ids: Any = None
    target_prefix: Any = None
    logits_processor: Sequence[LogitsProcessor] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Raises: OptionError: one that says nothing of how to generate is nothing of its kind."""
        own = {
            name: given[name] for name in cls.__dataclass_fields__ if name in given and name != "generation"
        }
        rest = {name: value for name, value in given.items() if name not in own}
        found = cls(**own, generation=rest)
        check_truncate(found.truncate)
        for name in ("src_lang", "tgt_lang"):
            check_language(name, getattr(found, name))
        processors = found.logits_processor or ()
        if not isinstance(processors, Sequence) or not all(map(callable, processors)):
            raise OptionError(f"logits_processor must be a list of functions, found {processors!r}")
        return found


def check_truncate(value: Any) -> None:
    """Raises: OptionError: it does not say how to cut a source."""
    if not isinstance(value, bool) and not (isinstance(value, str) and value in ("left", "right")):
        raise wrong("truncate", "True, False, 'left' or 'right'", value)


def check_language(name: str, value: Any) -> None:
    """Raises: OptionError: it cannot be the code of a language."""
    if value is not None and not isinstance(value, str):
        raise wrong(name, "a language's code, as the tokenizer has it", value)


class Preparation:
    """Makes requests of inputs. Safe to use from many threads.

    Args:
        manifest: of the artifact.
        tokenizer: of its sources.
        detokenizer: of its targets, None where the artifact has no tokenizer.
    """

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, detokenizer: Detokenizer | None) -> None:
        assert isinstance(manifest.output, GenerateInfo) and isinstance(manifest.limits, GenerateLimits)
        self._info, self._limits = manifest.output, manifest.limits
        self._languages = manifest.tokenization.languages
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer

    def one(self, value: Any, given: Mapping[str, Any]) -> GenerateRequest:
        """The request of one input.

        Raises:
            InputError, OptionError: as ``Seq2Seq.generate``.
        """
        (found,) = self.many([value], None, given)
        if isinstance(found, InputError):
            raise found
        return found

    def many(
        self, values: Sequence[Any], parameters: Sequence[Mapping[str, Any]] | None, given: Mapping[str, Any]
    ) -> list[GenerateRequest | InputError]:
        """The request of each input, or the error that it alone has.

        Raises:
            OptionError: an option is wrong; nothing has been queued then.
        """
        _check_parameters(parameters, len(values))
        common = Options.of(given)
        each = [Options.of({**given, **own}) for own in parameters] if parameters else [common] * len(values)
        found: list[GenerateRequest | InputError] = []
        for options, tokens in zip(each, self._tokens(values, each), strict=True):
            try:
                plan = self._plan(options)
                if isinstance(tokens, InputError):
                    found.append(tokens)
                    continue
                processors = tuple(options.logits_processor or ())
                found.append(GenerateRequest(tokens, plan, processors=processors))
            except InputError as error:
                found.append(error)
        return found

    def tokenize(
        self, items: Sequence[Item], truncate: Truncate, src_lang: str | None
    ) -> list[Tokens | InputError]:
        """Tokens of each source, or the error that it alone has."""
        return self._tokenizer.encode(items, truncate, src_lang=src_lang)

    def text_stream(self, request: GenerateRequest) -> tuple[TextStream, str]:
        """A text stream that has been given the prefix, and the text of it.

        Raises:
            OptionError: the request has no single text that grows.
        """
        if request.plan.mode == "beam" or request.plan.num_return_sequences != 1:
            raise OptionError(
                "a stream needs num_beams=1 and num_return_sequences=1: other sequences are not certain "
                "before the end; use generate"
            )
        if self._detokenizer is None:
            raise OptionError("the artifact has no tokenizer, so there is no text to stream; use submit")
        text = self._detokenizer.stream()
        return text, "".join([text.put(token) for token in request.plan.prefix])

    def _tokens(self, values: Sequence[Any], each: Sequence[Options]) -> list[Tokens | InputError]:
        """Inputs with the same options are tokenized together."""
        found: list[Tokens | InputError | None] = [None] * len(values)
        alike: dict[tuple[Truncate, str | None], list[tuple[int, Item]]] = {}
        for place, (value, options) in enumerate(zip(values, each, strict=True)):
            try:
                item = parse_without_pairs(value)
                alike.setdefault((options.truncate, options.src_lang), []).append((place, item))
            except InputError as error:
                found[place] = error
        for (truncate, src_lang), items in alike.items():
            tokens = self.tokenize([item for _, item in items], truncate, src_lang)
            for (place, _), one in zip(items, tokens, strict=True):
                found[place] = one
        return [one for one in found if one is not None]

    def _plan(self, options: Options) -> SamplingParams:
        generation = dict(options.generation)
        if options.tgt_lang is not None:
            if self._languages is None:
                raise OptionError(f"tgt_lang is {options.tgt_lang!r}, but this tokenizer knows no languages")
            generation["forced_bos_token_id"] = self._tokenizer.language_id(options.tgt_lang)
        return resolve(
            self._info.defaults, self._limits, self._info.vocab_size, generation, self._prefix(options)
        )

    def _prefix(self, options: Options) -> list[int] | None:
        if options.decoder_input_ids is not None and options.target_prefix is not None:
            raise OptionError("expected decoder_input_ids or target_prefix, found both")
        given = options.target_prefix if options.decoder_input_ids is None else options.decoder_input_ids
        if given is None:
            return None
        item = parse_without_pairs(given)
        if isinstance(item, np.ndarray):
            ids: list[int] = item.tolist()
            return ids
        assert isinstance(item, str)
        return self._tokenizer.target_ids(item)


def _check_parameters(parameters: Any, inputs: int) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, list | tuple) or not all(isinstance(own, Mapping) for own in parameters):
        raise wrong("parameters", "a list of dictionaries", parameters)
    if len(parameters) != inputs:
        raise OptionError(f"expected parameters for each of {inputs} inputs, found {len(parameters)}")
