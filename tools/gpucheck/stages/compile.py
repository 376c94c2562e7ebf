"""The artifacts of BERT-base, built from the lowered graphs and verified against Hugging Face."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from precast.artifacts.manifest import Manifest
from precast.compiler.pipeline import run as compile_model
from precast.graphs.graph_names import GraphName
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.gpucheck.stages import lower


def run(setting: Setting, part: str) -> Report:
    (build,) = (one for one in (*lower.TUNED, *lower.UNTUNED) if one.name == part)
    lower.write_model(setting)
    ready = lower.is_lowered(setting, build)
    if build.autotune and not ready:
        # Autotuning would exceed the time limit, and an untuned artifact is better than none.
        print(f"{build.name}: not all graphs were lowered in time, compiling without autotuning")
    build = replace(build, autotune=build.autotune and ready)
    result = compile_model(build.options(setting))
    report = Report()
    manifest = result.manifest
    report.expect(manifest.parity is not None, "the compiler did not check parity")
    report.expect(bool(manifest.graphs[GraphName.ENCODE].variants), "the artifact has no graph")
    report.content = {
        "tuned": build.autotune,
        "from_cache": result.from_cache,
        "step_seconds": {name: round(seconds, 2) for name, seconds in result.seconds.items()},
        "parity": manifest.parity.model_dump() if manifest.parity else None,
        "variants": describe_variants(manifest),
        "notes": list(manifest.notes),
    }
    print({name: value for name, value in report.content.items() if name != "variants"})
    return report


def describe_variants(manifest: Manifest) -> list[dict[str, Any]]:
    """Return each variant of the graph with the kernels that autotuning selected."""
    return [
        {"tuned_at": variant.tuned_at, "max_size": variant.max_size, "choices": dict(variant.choices)}
        for variant in manifest.graphs[GraphName.ENCODE].variants
    ]


STAGE = Stage(
    "compile",
    "BERT-base compiles and agrees with Hugging Face; the kernels that autotuning selected",
    limit=60,
    run=run,
    parts=tuple(build.name for build in (*lower.TUNED, *lower.UNTUNED)),
    urgent=True,
    after=("lower",),
)
