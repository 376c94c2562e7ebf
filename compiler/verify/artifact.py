"""Running a written artifact through the runtime: parity with Hugging Face, and speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from precast.artifacts.manifest import Manifest, ParityInfo
from precast.compiler.manifest import BucketSelection, Draft
from precast.compiler.verify.speed import measure_speedup, speedup_note
from precast.runtime.encoder.engine import Encoder
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.load import start_engine


@contextmanager
def open_draft(draft: Draft, manifest: Manifest) -> Iterator[Encoder | Seq2Seq]:
    """Open the engine of an artifact that is not published yet; the engine is closed on exit."""
    with start_engine(draft.folder, manifest) as engine:
        yield engine


def verify_artifact(draft: Draft, manifest: Manifest) -> ParityInfo:
    """Compare the outputs of an artifact with Hugging Face's and return the errors for the manifest.

    Raises:
        ParityError: The outputs differ by more than the tolerance of the dtype and the quantization.
    """
    with open_draft(draft, manifest) as engine:
        return draft.task.check_parity(engine, draft.source.checkpoint)


def compare_speed(plain: tuple[Draft, BucketSelection], quantized: tuple[Draft, BucketSelection]) -> str:
    """Return a note for the manifest on how much faster the quantized artifact is.

    Args:
        plain: The unquantized artifact and its buckets.
        quantized: The quantized artifact and its buckets.

    Raises:
        SpeedCheckError: The quantized artifact is not faster on this machine.
    """
    task, options = quantized[0].task, quantized[0].options
    open_plain, open_quantized = (
        partial(open_draft, draft, draft.manifest(selection)) for draft, selection in (plain, quantized)
    )
    return speedup_note(measure_speedup(open_plain, open_quantized, task.run_example), options.dtype)
