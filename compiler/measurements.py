"""Measurements of an artifact on this machine: bucket costs, parity and speed; and their cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict

import transformers
from pydantic import ValidationError

from precast.artifacts.base import StrictModel
from precast.artifacts.manifest import ParityInfo
from precast.compiler.buckets.workload import Workload
from precast.compiler.cache import source_digest
from precast.compiler.cache_folder import cache_folder
from precast.compiler.manifest import BucketSelection, Draft

_SOURCES = ("artifacts", "graphs", "compiler", "runtime")


class Measurements(StrictModel):
    """The measured part of a manifest.

    Attributes:
        selection: fitted buckets and their costs.
        parity: the comparison with Hugging Face; None if it was skipped.
        notes: notes for the manifest, besides those of the selection.
    """

    selection: BucketSelection
    parity: ParityInfo | None
    notes: tuple[str, ...]


def find_measurements(draft: Draft, workload: Workload | None) -> Measurements | None:
    """Return the cached measurements of an equal artifact, or None; portable ones are always measured."""
    if draft.target.portable:
        return None
    path = cache_folder() / "measurements" / f"{_key(draft, workload)}.json"
    try:
        return Measurements.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def keep_measurements(draft: Draft, workload: Workload | None, measurements: Measurements) -> None:
    """Put the measurements of an artifact into the cache."""
    if draft.target.portable:
        return
    path = cache_folder() / "measurements" / f"{_key(draft, workload)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(measurements.model_dump_json(), "utf-8")
    partial.replace(path)


def _key(draft: Draft, workload: Workload | None) -> str:
    """Return the SHA-256 over everything that the measurements depend on."""
    options, checkpoint = draft.options, draft.source.checkpoint
    content = {
        # Holds the hash of every file.
        "manifest": draft.manifest().model_dump(mode="json"),
        "config": checkpoint.config.to_json_string(),
        "workload": None if workload is None else asdict(workload),
        "options": [options.max_buckets, options.verify, options.check_speed],
        "machine": [platform.node(), os.cpu_count()],
        "transformers": transformers.__version__,
        "source": source_digest(_SOURCES),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
