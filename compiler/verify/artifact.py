"""Running an artifact as it will be loaded."""

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
    """Open the engine of an artifact that is not published yet."""
    with start_engine(draft.folder, manifest) as engine:
        yield engine


def verify_artifact(draft: Draft, manifest: Manifest) -> ParityInfo:
    """Compare the outputs of an artifact with Hugging Face's.

    Raises:
        ParityError: they differ by more than dtype and quantization explain.
    """
    with open_draft(draft, manifest) as engine:
        return draft.task.check_parity(engine, draft.source.checkpoint)


def compare_speed(plain: tuple[Draft, BucketSelection], quantized: tuple[Draft, BucketSelection]) -> str:
    """Return a note on how much faster the quantized artifact is.

    Raises:
        SpeedCheckError: it is no faster on this machine.
    """
    draft = quantized[0]
    opens = [partial(open_draft, one, one.manifest(selection)) for one, selection in (plain, quantized)]
    return speedup_note(measure_speedup(opens[0], opens[1], draft.task.run_example), draft.options.dtype)
