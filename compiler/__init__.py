"""The compiler: turns a Hugging Face checkpoint into an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precast.artifacts.manifest import Manifest
from precast.compiler.errors import CompileError
from precast.compiler.options import CompileOptions
from precast.graphs.encode import Dtype, Quantization, Task

if TYPE_CHECKING:
    from precast.compiler.progress import Progress

__all__ = ["compile"]


def compile(
    model: str | Path,
    output: str | Path,
    *,
    task: Task | Literal["auto"] = "auto",
    device: str = "cpu",
    dtype: Dtype = "fp32",
    quantize: Quantization | None = None,
    backend: str = "inductor",
    max_length: int | None = None,
    max_tokens: int | None = None,
    max_batch: int | None = None,
    max_target_length: int | None = None,
    max_num_seqs: int = 64,
    workload: str | Path | None = None,
    max_buckets: int | None = None,
    pooling: str | Sequence[str] | None = None,
    revision: str | None = None,
    prepack: bool = True,
    autotune: bool | None = None,
    verify: bool = True,
    check_speed: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Compile a Hugging Face checkpoint to an artifact.

    Args:
        model: A local directory or a hub id.
        output: Directory of the artifact.
        task: ``embed``, ``classify``, ``rerank``, ``token-classify``, ``hidden``, ``generate``, or ``auto``
            to detect it from the checkpoint. Encoder-decoders have the task ``generate`` by default.
        device: ``cpu``; ``cuda`` for the GPU of this machine; ``cuda:sm_90`` (or another architecture) to
            compile without a GPU, untuned and without ``verify``.
        dtype: Dtype of weights and computation: ``fp32``, ``bf16`` or, on CUDA, ``fp16``.
        quantize: ``int8`` rounds the weights and inputs of linear layers to eight bits, on a CPU with
            AVX-512 VNNI. Outputs have a cosine of at least 0.99 to Hugging Face's in fp32.
        backend: ``inductor``, or ``reference``: portable and slow.
        max_length: Tokens of one input, or of one source of an encoder-decoder. Default: the checkpoint's
            limit, 512 for sources if it states none.
        max_tokens: Tokens of a packed batch. Default: 16,384, 4,096 for sources, and at least
            ``max_length``.
        max_batch: Inputs of a packed batch. Default: 512, 64 for sources.
        max_target_length: Task ``generate``: positions of one output, counting start token, prefix and
            generated tokens. Default: 512, or the length in the checkpoint's generation configuration if
            that is more; at most the decoder's positions.
        max_num_seqs: Task ``generate``: sequences decoded simultaneously. A request has one per beam or
            sample.
        workload: JSON file with expected input lengths in tokens (for ``generate``: of sources), to fit the
            buckets to. A list, or ``{"lengths": {"12": 340}, "concurrency": {"1": 90, "32": 1}}``, which
            counts how often each length and each number of simultaneous inputs occurs. Lengths include the
            tokens that the tokenizer adds; lengths above ``max_length`` count as ``max_length``. Default
            concurrency: 1, 2, 4, 8, 16 and 32, each with the same number of inputs.
        max_buckets: With a workload: maximum number of buckets, on CUDA each a captured graph. Default: as
            many as without a workload.
        pooling: Task ``embed``: one or several pooling modes that replace the checkpoint's.
        revision: Branch, tag or commit of a hub id.
        prepack: On a CPU: store weights inside the graphs, in the layout that is fastest on this processor.
        autotune: Search for the fastest matrix multiplications. Default: on CUDA, and in bf16 with AMX.
        verify: Compare with Hugging Face before the artifact is published.
        check_speed: With ``quantize``: refuse the artifact unless it is faster on this machine than the
            unquantized model, which is compiled for the comparison. Skipped without ``verify`` and for the
            reference backend.
        overwrite: Replace an artifact that exists at ``output``.
        progress: Function that is called with a ``precast.compiler.progress.ProgressEvent`` when a stage or
            a graph begins or ends. The same events are logged under ``precast.compiler`` at level INFO.

    Returns:
        The manifest that was written.

    Raises:
        CompileError: The checkpoint cannot be compiled with these options; subclasses name the reason.
        ArtifactExistsError: ``output`` exists already.
    """
    missing = [name for name in ("transformers", "huggingface_hub") if find_spec(name) is None]
    if missing:
        raise CompileError(f"compiling needs {' and '.join(missing)}: pip install 'precast[compile]'")
    from precast.compiler.pipeline import run

    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling) if pooling else None
    options = CompileOptions(
        model=str(model), output=Path(output), task=task, device=device, dtype=dtype,
        quantize=quantize, backend=backend, max_length=max_length, max_tokens=max_tokens,
        max_batch=max_batch, max_target_length=max_target_length, max_num_seqs=max_num_seqs,
        workload=None if workload is None else Path(workload), max_buckets=max_buckets, pooling=modes,
        revision=revision, prepack=prepack, autotune=autotune, verify=verify, check_speed=check_speed,
        overwrite=overwrite,
    )  # fmt: skip
    return run(options, progress).manifest
