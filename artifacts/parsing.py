"""Parses manifests: checks format version, digest and schema, in that order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from pydantic import ValidationError

from precast.artifacts.errors import ManifestError, UnsafePathError
from precast.artifacts.manifest import (
    FORMAT_VERSION,
    EncodeManifest,
    GenerateManifest,
    Manifest,
    manifest_digest,
)
from precast.artifacts.versions import check_version
from precast.graphs import strict_json
from precast.graphs.errors import PrecastError

_KINDS: dict[str, type[EncodeManifest] | type[GenerateManifest]] = {
    "encode": EncodeManifest,
    "generate": GenerateManifest,
}
_SHOWN = 3
"""Maximum number of violations in a message."""


def parse_manifest(text: str, folder: Path | None = None) -> Manifest:
    """Parse and validate a manifest.

    Args:
        text: The content of ``manifest.json``.
        folder: The artifact, for error messages.

    Raises:
        FormatVersionError: The manifest has another format version.
        UnsafePathError: A listed path leaves the artifact.
        ManifestError: The text is not JSON, repeats a key, violates the schema or does not match its digest.
    """
    try:
        return _parse(text, folder)
    except RecursionError as error:
        # Which step exceeds the recursion limit depends on the depth of the caller's stack.
        raise ManifestError("the manifest is nested too deep; copy or compile the artifact again") from error


def _parse(text: str, folder: Path | None) -> Manifest:
    try:
        data = strict_json.loads(text)
    except ValueError as error:
        raise ManifestError(
            f"the manifest is not JSON ({error}); copy or compile the artifact again"
        ) from error
    if not isinstance(data, dict):
        raise ManifestError(
            f"expected the manifest to be a JSON object, found a {type(data).__name__}; "
            f"copy or compile the artifact again"
        )
    check_version(data, folder)
    digest = data.pop("digest", None)
    if digest != manifest_digest(data):
        raise ManifestError(
            f"the manifest was changed after it was written: its digest is {shortened(digest)}, "
            f"its content gives {manifest_digest(data)}; copy or compile the artifact again"
        )
    try:
        return _validated(data)
    except UnsafePathError:
        raise
    except (ValidationError, ValueError, PrecastError) as error:
        raise ManifestError(
            f"the manifest does not follow format version {FORMAT_VERSION}: {_reason(error)}; "
            f"compile the artifact again"
        ) from error


def _validated(data: dict[str, Any]) -> Manifest:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, found {shortened(kind)}")
    manifest = _KINDS[kind].model_validate_json(json.dumps(data))
    # Default values of the model classes are for writers: a reader must not fill in missing keys.
    missing = list(_missing_keys(data, manifest.model_dump(mode="json")))
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(f"the keys {', '.join(missing[:_SHOWN])}{more} are missing")
    if manifest.named_files() != set(manifest.files):
        raise ValueError(
            f"the parts refer to the files {sorted(manifest.named_files())[:5]}, "
            f"but files lists {sorted(manifest.files)[:5]}"
        )
    return manifest


def _missing_keys(data: Any, complete: Any, way: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the keys of ``complete`` that ``data`` lacks, as ``output.size``."""
    if way == ("output", "defaults"):
        return  # one key for each generation parameter: an older compiler may not know the newest ones
    if isinstance(complete, dict):
        yield from (".".join((*way, key)) for key in complete if key not in data)
        for key in data:
            yield from _missing_keys(data[key], complete[key], (*way, key))
    elif isinstance(complete, list):
        for position, item in enumerate(complete):
            yield from _missing_keys(data[position], item, (*way, str(position)))


def _reason(error: Exception) -> str:
    """Return the first violations, and how many more there are."""
    if not isinstance(error, ValidationError):
        return str(error)
    violations = error.errors(include_url=False)
    more = len(violations) - _SHOWN
    shown = [_violation(violation) for violation in violations[:_SHOWN]]
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _violation(violation: Any) -> str:
    where = ".".join(map(str, violation["loc"]))
    prefix = f"{where}: " if where else ""
    if violation["type"] == "value_error":  # raised by our validators, whose messages include the value
        return f"{prefix}{violation['ctx']['error']}"
    return f"{prefix}{violation['msg']}, found {shortened(violation['input'])[:300]}"
