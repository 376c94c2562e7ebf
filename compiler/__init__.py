"""Checkpoint to artifact: everything that happens ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from precast.artifacts.manifest import Manifest
from precast.compiler.errors import CompileError
from precast.compiler.options import CompileOptions
from precast.graphs.encode import Dtype, Quantization, Task

__all__ = ["compile"]


def compile(  # noqa: A001 - the word of the trade; it is reached as precast.compile
    model: str | Path,
    output: str | Path,
    *,
    task: Task | Literal["auto"] = "auto",
    device: str = "cpu",
    dtype: Dtype = "fp32",
    quantize: Quantization | None = None,
    backend: Literal["inductor", "reference"] = "inductor",
    max_length: int | None = None,
    max_tokens: int | None = None,
    max_batch: int | None = None,
    max_target_length: int | None = None,
    max_num_seqs: int = 64,
    workload: str | Path | None = None,
    graphs: int | None = None,
    pooling: str | Sequence[str] | None = None,
    revision: str | None = None,
    prepack: bool = True,
    autotune: bool | None = None,
    verify: bool = True,
    check_speed: bool = True,
    overwrite: bool = False,
) -> Manifest:
    """Compile a Hugging Face checkpoint to an artifact.

    Args:
        model: a local directory or a hub id.
        output: directory of the artifact.
        task: ``embed``, ``classify``, ``rerank``, ``token-classify``, ``hidden``, ``generate``, or ``auto``
            to read it from the checkpoint. An encoder-decoder generates, unless a task is named.
        device: ``cpu``; ``cuda`` for the CUDA device of this machine; ``cuda:sm_90`` (or another
            architecture) to build for a GPU that is not here, untuned and without ``verify``.
        dtype: ``fp32``, ``bf16`` or, on CUDA, ``fp16``; what weights are stored and computed in.
        quantize: ``int8``, on a CPU with AVX-512 VNNI: weights of linear layers, and what they are multiplied
            with, are rounded to eight bits. Faster; answers stay within a cosine of 0.99.
        backend: ``inductor``, or ``reference``: portable and slow.
        max_length: tokens of one input, for ``generate`` of one source; the checkpoint's own limit where
            left out, 512 for sources where it states none.
        max_tokens: tokens of a packed batch; where left out 16,384, for ``generate`` 4,096, and never fewer
            than ``max_length``.
        max_batch: inputs of a packed batch; where left out 512, for ``generate`` 64.
        max_target_length: for ``generate``, positions of one answer: start token, prefix and everything
            generated. Where left out 512 or what the checkpoint's generation configuration asks for, if that
            is more; at most what its positions reach.
        max_num_seqs: for ``generate``, rows that are decoded side by side; a request has one, or one for each of
            its beams.
        workload: a JSON file of the lengths in tokens that inputs (of ``generate``: sources) will have, which
            the buckets is fitted to. A list, or ``{"lengths": {"12": 340}, "concurrency": {"1": 90, "32": 1}}``:
            how often each length comes, and how often so many inputs come together. Lengths count what the
            tokenizer adds; longer ones than ``max_length`` count as that. Without ``together`` as many
            inputs come alone as in groups of 2, 4, 8, 16 and 32.
        graphs: buckets of a fitted buckets at most, on CUDA each a captured graph; as many as the usual
            buckets has where left out.
        pooling: for ``embed``, a mode or several that replace the checkpoint's.
        revision: of a hub id.
        prepack: lay weights out for this processor and keep them in the graph (CPU only).
        autotune: search for the fastest matrix multiplications; None does so on CUDA, and on processors
            that gain by it.
        verify: compare with Hugging Face before the artifact is put in place.
        check_speed: with ``quantize``, refuse it unless it is faster on this machine than ``dtype`` alone,
            which is compiled for that too. Not without ``verify``, nor for the reference backend.
        overwrite: replace what is at ``output``.

    Returns:
        The manifest that was written.

    Raises:
        CompileError: the checkpoint cannot be compiled as asked; its subclasses say why.
        ArtifactExistsError: there is something at ``output``.
    """
    missing = [name for name in ("transformers", "huggingface_hub") if find_spec(name) is None]
    if missing:
        raise CompileError(f"compiling needs {' and '.join(missing)}: pip install 'precast[compile]'")
    from precast.compiler.pipeline import run

    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling) if pooling else None
    options = CompileOptions(
        model=str(model), output=Path(output), task=task, device=device, dtype=dtype,
        quantize=quantize, backend=backend,
        max_length=max_length, max_tokens=max_tokens, max_batch=max_batch,
        max_target_length=max_target_length, max_num_seqs=max_num_seqs,
        workload=None if workload is None else Path(workload), graphs=graphs, pooling=modes, revision=revision,
        prepack=prepack, autotune=autotune, verify=verify, check_speed=check_speed,
        overwrite=overwrite,
    )  # fmt: skip
    return run(options).manifest
