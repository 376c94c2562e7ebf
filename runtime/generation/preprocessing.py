"""Builds requests: tokenizes sources and checks parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precast.artifacts.manifest import GenerateManifest
from precast.runtime.errors import InferenceError, InputError, OptionError
from precast.runtime.futures import ResultFuture
from precast.runtime.generation.request import LogitsProcessor, Request
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.generation.validation import wrong
from precast.runtime.io.detokenization import Detokenizer, TextStream
from precast.runtime.io.inputs import Item, parse_without_pairs
from precast.runtime.io.preprocessor import Preprocessor
from precast.runtime.io.tokenization import TextTokenizer, Truncate
from precast.runtime.io.tokens import Tokens

_NOT_PARAMETERS = ("transformers_version",)
"""Fields of Hugging Face's GenerationConfig that are neither parameters nor private."""


@dataclass(frozen=True)
class RequestOptions:
    """The options of one input: those of its source and prefix, and the generation parameters."""

    truncate: Truncate = True
    src_lang: str | None = None
    tgt_lang: str | None = None
    decoder_input_ids: Any = None
    target_prefix: Any = None
    logits_processor: Sequence[LogitsProcessor] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> RequestOptions:
        """Split keyword arguments into options and generation parameters, which are checked later.

        Raises:
            OptionError: An option has an invalid value.
        """
        own = {
            name: given[name] for name in cls.__dataclass_fields__ if name in given and name != "parameters"
        }
        rest = {name: value for name, value in given.items() if name not in own}
        options = cls(**own, parameters=rest)
        check_truncate(options.truncate)
        for name in ("src_lang", "tgt_lang"):
            check_language(name, getattr(options, name))
        processors = options.logits_processor or ()
        if not isinstance(processors, Sequence) or not all(map(callable, processors)):
            raise OptionError(f"logits_processor must be a list of functions, found {processors!r}")
        return options


def check_truncate(value: Any) -> None:
    """Raises: OptionError: The value is not one of True, False, ``"left"`` and ``"right"``."""
    if not isinstance(value, bool) and not (isinstance(value, str) and value in ("left", "right")):
        raise wrong("truncate", "True, False, 'left' or 'right'", value)


def check_language(name: str, value: Any) -> None:
    """Raises: OptionError: The value is neither None nor a text."""
    if value is not None and not isinstance(value, str):
        raise wrong(name, "a language code of the tokenizer", value)


class RequestBuilder:
    """Builds requests. Safe to use from many threads.

    Args:
        manifest: Manifest of the artifact.
        preprocessor: Preprocessor of sources.
        tokenizer: Tokenizer of prefixes and languages of targets.
        detokenizer: Detokenizer of targets; None if the artifact has no tokenizer.
    """

    def __init__(
        self,
        manifest: GenerateManifest,
        preprocessor: Preprocessor,
        tokenizer: TextTokenizer,
        detokenizer: Detokenizer | None,
    ) -> None:
        self._info, self._limits = manifest.output, manifest.limits
        self._languages = manifest.tokenization.languages
        self._preprocessor = preprocessor
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer

    def build(self, value: Any, options: Mapping[str, Any], deadline: float | None = None) -> Request:
        """Return the request of one input.

        Raises:
            InputError, OptionError: As ``Seq2Seq.generate``.
        """
        (request,) = self.build_all([value], None, options, deadline)
        if isinstance(request, InferenceError):
            raise request
        return request

    def build_all(
        self,
        values: Sequence[Any],
        parameters: Sequence[Any] | None,
        options: Mapping[str, Any],
        deadline: float | None = None,
    ) -> list[Request | InferenceError]:
        """Return the request of each input, or the error of an invalid one.

        Args:
            values: Inputs.
            parameters: For each input, options that take precedence over the common ones; None for none.
            options: Keyword arguments of the call.
            deadline: ``time.monotonic`` at which the requests time out.

        Raises:
            OptionError: A common option is invalid.
        """
        common = _flattened(options)
        each = [self._options(common, own) for own in _checked_parameters(parameters, len(values))]
        requests: list[Request | InferenceError] = []
        for own, tokens in zip(each, self._tokens(values, each), strict=True):
            if isinstance(own, OptionError):
                requests.append(own)
                continue
            if isinstance(tokens, InputError):
                requests.append(tokens)
                continue
            try:
                params = self._params(own)
            except InputError as error:
                # Without a traceback, which would close a reference cycle through this frame.
                requests.append(error.with_traceback(None))
            except OptionError as error:
                if parameters is None:
                    raise
                requests.append(error.with_traceback(None))
            else:
                processors = tuple(own.logits_processor or ())
                requests.append(Request(tokens, params, ResultFuture(deadline), processors))
        return requests

    def _options(self, common: Mapping[str, Any], own: Any) -> RequestOptions | OptionError:
        if own is None:
            return RequestOptions.of(common)
        try:
            return RequestOptions.of({**common, **_flattened(as_mapping("parameters", own))})
        except OptionError as error:
            return error

    def parse(self, value: Any) -> Item:
        """Return one source after checking its type.

        Raises:
            InputError: The source has an unsupported type.
        """
        return self._preprocessor.parse(value, "refused")

    def tokenize(
        self, items: Sequence[Item], truncate: Truncate, src_lang: str | None
    ) -> list[Tokens | InputError]:
        """Return the tokens of each source, or the error of an invalid one."""
        return self._preprocessor.process(items, truncate, src_lang=src_lang)

    def text_stream(self, request: Request) -> tuple[TextStream, str]:
        """Return a text stream that has decoded the prefix, and the text of the prefix.

        Raises:
            OptionError: The request has several sequences or beams, or the artifact has no tokenizer.
        """
        if request.params.mode == "beam" or request.params.num_return_sequences != 1:
            raise OptionError(
                "a stream needs num_beams=1 and num_return_sequences=1, because beams may change until "
                "the end; use generate"
            )
        if self._detokenizer is None:
            raise OptionError("the artifact has no tokenizer, so there is no text to stream; use submit")
        text = self._detokenizer.stream()
        return text, "".join([text.put(token) for token in request.params.prefix])

    def _tokens(
        self, values: Sequence[Any], each: Sequence[RequestOptions | OptionError]
    ) -> list[Tokens | InputError]:
        """Tokenize inputs, with one call of the tokenizer for all that have the same options."""
        outcomes: dict[int, Tokens | InputError] = {}
        groups: dict[tuple[Truncate, str | None], list[tuple[int, Item]]] = {}
        for index, (value, options) in enumerate(zip(values, each, strict=True)):
            try:
                item = self._preprocessor.parse(value, "refused")
            except InputError as error:
                outcomes[index] = error
                continue
            key = (True, None) if isinstance(options, OptionError) else (options.truncate, options.src_lang)
            groups.setdefault(key, []).append((index, item))
        for (truncate, src_lang), items in groups.items():
            tokenized = self.tokenize([item for _, item in items], truncate, src_lang)
            outcomes |= {index: tokens for (index, _), tokens in zip(items, tokenized, strict=True)}
        return [outcomes[index] for index in range(len(values))]

    def _params(self, options: RequestOptions) -> SamplingParams:
        parameters = dict(options.parameters)
        if options.tgt_lang is not None:
            if self._languages is None:
                raise OptionError(f"tgt_lang is {options.tgt_lang!r}, but this tokenizer has no languages")
            parameters["forced_bos_token_id"] = self._tokenizer.language_id(options.tgt_lang)
        return resolve(
            self._info.defaults, self._limits, self._info.vocab_size, parameters, self._prefix(options)
        )

    def _prefix(self, options: RequestOptions) -> list[int] | None:
        if options.decoder_input_ids is not None and options.target_prefix is not None:
            raise OptionError("expected decoder_input_ids or target_prefix, found both")
        prefix = options.target_prefix if options.decoder_input_ids is None else options.decoder_input_ids
        if prefix is None:
            return None
        item = parse_without_pairs(prefix)
        if isinstance(item, np.ndarray):
            ids: list[int] = item.tolist()
            return ids
        assert isinstance(item, str)
        return self._tokenizer.target_ids(item)


def as_mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return a dictionary, or the fields of an object such as Hugging Face's GenerationConfig.

    Raises:
        OptionError: The value is neither.
    """
    if isinstance(value, Mapping):
        return value
    for method in ("to_diff_dict", "to_dict"):
        if callable(convert := getattr(value, method, None)) and not isinstance(value, type):
            return {
                key: entry
                for key, entry in convert().items()
                if not key.startswith("_") and key not in _NOT_PARAMETERS
            }
    raise wrong(name, "a dictionary or an object with to_dict, such as GenerationConfig", value)


def _flattened(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options merged with those of ``generation_config``, over which they take precedence."""
    config = options.get("generation_config")
    rest = {name: value for name, value in options.items() if name != "generation_config"}
    return rest if config is None else {**as_mapping("generation_config", config), **rest}


def _checked_parameters(parameters: Any, inputs: int) -> Sequence[Any]:
    if parameters is None:
        return [None] * inputs
    if not isinstance(parameters, list | tuple):
        raise wrong(
            "parameters", "a list of dictionaries or GenerationConfigs, one for each input", parameters
        )
    if len(parameters) != inputs:
        raise OptionError(f"expected parameters for each of {inputs} inputs, found {len(parameters)}")
    for own in parameters:
        as_mapping("parameters", own)
    return parameters
