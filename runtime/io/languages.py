"""Languages of sources and targets, and the special tokens around a source."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from precast.artifacts.tokenization import LanguageInfo
from precast.runtime.errors import OptionError

_SHOWN = 5


@dataclass(frozen=True)
class Surroundings:
    """Special tokens around a source.

    Attributes:
        prefix: Token ids before the source.
        suffix: Token ids after the source.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


class Languages:
    """The languages of one artifact.

    Args:
        info: The manifest's description of the languages.
    """

    def __init__(self, info: LanguageInfo) -> None:
        self._info = info

    def id_of(self, code: str, option: str = "tgt_lang") -> int:
        """Return the token id of a language, for ``forced_bos_token_id``.

        Args:
            code: The checkpoint's name of the language.
            option: Name of the call's option, for the error message.

        Raises:
            OptionError: The artifact does not have the language.
        """
        try:
            return self._info.codes[code]
        except (KeyError, TypeError):
            raise OptionError(
                f"{option} {code!r} is no language of this artifact; {self._hint(code)}"
            ) from None

    def around(self, src_lang: str | None) -> Surroundings:
        """Return the special tokens around a source.

        Args:
            src_lang: The source's language; None for the artifact's default.

        Raises:
            OptionError: The artifact does not have the language.
        """
        code = self._info.default if src_lang is None else src_lang
        language = [] if code is None else [self.id_of(code, "src_lang")]
        return Surroundings(_filled(self._info.prefix, language), _filled(self._info.suffix, language))

    def _hint(self, code: object) -> str:
        known = sorted(self._info.codes)
        nearest = difflib.get_close_matches(str(code), known, n=1, cutoff=0.0)
        listed = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" * (len(known) > _SHOWN))
        return f"the nearest is {nearest[0]}; it knows {listed}"


def _filled(template: tuple[int | None, ...], language: list[int]) -> tuple[int, ...]:
    filled: list[int] = []
    for token in template:
        filled.extend(language if token is None else [token])
    return tuple(filled)
