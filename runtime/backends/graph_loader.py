"""Loads the graphs of an artifact with their weights bound, and the replay of ``encode``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from precast.artifacts.errors import WeightsError
from precast.artifacts.manifest import EncodeManifest, GraphInfo, Manifest
from precast.artifacts.weights import read_weights
from precast.graphs.encode import TOKENS
from precast.graphs.errors import ProgramError
from precast.graphs.graph_names import GraphName
from precast.graphs.program import Program
from precast.runtime.backends.inductor import InductorGraph
from precast.runtime.backends.reference import ProgramRunner
from precast.runtime.cpu.allocator import keep_freed_memory
from precast.runtime.cpu.replay import DirectReplay
from precast.runtime.cpu.thread_pool import thread_pool_for
from precast.runtime.cuda.guard import device_failed
from precast.runtime.cuda.replay import CapturedReplay, CaptureOptions
from precast.runtime.cuda.torch_device import CudaDevice
from precast.runtime.encoder.packing import fill_example
from precast.runtime.errors import GraphError
from precast.runtime.options import DEFAULTS, LoadOptions
from precast.runtime.replay import Graph, Replay


class VariantGraph:
    """A graph with several variants, each tuned for a range of sizes: runs the first that is large enough.

    Args:
        variants: The maximum size and the loaded graph of each variant, ascending.
        sized_by: Name of the input whose length is the size of a batch.
    """

    def __init__(self, variants: Sequence[tuple[int, Graph]], sized_by: str = "input_ids") -> None:
        self._variants = tuple(variants)
        self._sized_by = sized_by

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        size = inputs[self._sized_by].shape[0]
        for limit, graph in self._variants:
            if size <= limit:
                return graph(inputs)
        # Batches are padded to two tokens, even if the limits allow only one.
        return self._variants[-1][1](inputs)


def open_graph(folder: Path, manifest: Manifest, name: GraphName) -> Graph:
    """Return one graph of a CPU artifact, with its weights bound.

    Raises:
        WeightsError, ProgramError, GraphError: A file does not fit the manifest.
        KeyError: The artifact has no such graph.
    """
    return _open_on_cpu(folder, manifest, manifest.graphs[name], _read(folder, manifest))


def open_graphs(folder: Path, manifest: Manifest, device: str = "cpu") -> dict[GraphName, Graph]:
    """Return all graphs of an artifact by name. They share one copy of the weights.

    Args:
        folder: Directory of the artifact.
        manifest: Manifest of the artifact.
        device: Device of the kind that the artifact was built for: ``cpu``, or such as ``cuda:0``.

    Raises:
        WeightsError, ProgramError, GraphError: A file does not fit the manifest.
        DeviceFailedError: The weights could not be moved to the device.
    """
    weights, graphs = _read(folder, manifest), manifest.graphs
    if device == "cpu":
        return {name: _open_on_cpu(folder, manifest, graph, weights) for name, graph in graphs.items()}
    placed = _on_device(weights, device)
    return {
        name: _open_variants(
            graph, partial(_open_on_cuda, folder, manifest, graph, _bound(placed, graph), device)
        )
        for name, graph in graphs.items()
    }


def open_replay(folder: Path, manifest: EncodeManifest, options: LoadOptions = DEFAULTS) -> Replay:
    """Return the replay of ``encode`` on the device that it was built for, with its weights bound.

    Raises:
        WeightsError, ProgramError, GraphError: A file does not fit the manifest.
        DeviceFailedError: The weights could not be moved to the device.
    """
    graph = manifest.graphs[GraphName.ENCODE]
    device = options.device_for(manifest)
    if device == "cpu":
        loaded = open_graph(folder, manifest, graph.signature.graph)
        return DirectReplay(graph.signature, loaded, thread_pool_for(options.num_threads, options.cores))
    placed = _on_device(_bound(_read(folder, manifest), graph), device)
    return CapturedReplay(
        graph.signature,
        _open_variants(graph, partial(_open_on_cuda, folder, manifest, graph, placed, device)),
        graph.buckets,
        CudaDevice(options.device_index()),
        _capture_options(manifest, graph, options),
    )


def _read(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    return read_weights(folder / manifest.weights) if manifest.weights else {}


def _bound(weights: dict[str, Tensor], graph: GraphInfo) -> dict[str, Tensor]:
    missing = sorted(set(graph.constants) - set(weights))
    if missing:
        raise WeightsError(f"the weights file lacks {missing[:5]}; copy or compile the artifact again")
    return {name: weights[name] for name in graph.constants}


def _open_variants(graph: GraphInfo, open_file: Callable[[str], Graph]) -> Graph:
    """Load all variants of a graph, which bind the same weights."""
    variants = [(variant.max_size, open_file(variant.file)) for variant in graph.variants]
    if len(variants) == 1:
        return variants[0][1]
    axis = graph.buckets.axis
    sized_by = next(buffer.name for buffer in graph.signature.inputs if buffer.shape[0] == axis)
    return VariantGraph(variants, sized_by)


def _open_on_cpu(folder: Path, manifest: Manifest, graph: GraphInfo, weights: dict[str, Tensor]) -> Graph:
    keep_freed_memory()
    inductor = manifest.build.backend == "inductor"
    open_file = _open_library if inductor else _open_program
    return _open_variants(graph, partial(open_file, folder, manifest, graph, _bound(weights, graph)))


def _open_library(
    folder: Path, manifest: Manifest, graph: GraphInfo, weights: dict[str, Tensor], file: str
) -> Graph:
    bound = None if graph.weights == "prepacked" else weights
    return InductorGraph(folder / file, graph.signature, bound, digest=manifest.files[file].sha256)


def _open_program(
    folder: Path, manifest: Manifest, graph: GraphInfo, weights: dict[str, Tensor], file: str
) -> Graph:
    try:
        program = Program.from_json((folder / file).read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ProgramError(f"{file} is not UTF-8 text: {error}; compile the artifact again") from error
    actual, expected = set(program.inputs), {buffer.name for buffer in graph.signature.inputs}
    if actual != expected:
        raise ProgramError(
            f"{file} takes {sorted(actual)[:9]}, its signature names {sorted(expected)[:9]}; "
            f"compile the artifact again"
        )
    return ProgramRunner(program, weights)


def _on_device(weights: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    try:
        return {name: tensor.to(device) for name, tensor in weights.items()}
    except Exception as error:
        raise device_failed("weights were moved to it", error) from error


def _open_on_cuda(
    folder: Path, manifest: Manifest, graph: GraphInfo, weights: dict[str, Tensor], device: str, file: str
) -> Graph:
    try:
        bound = None if graph.weights == "prepacked" else weights
        return InductorGraph(folder / file, graph.signature, bound, manifest.files[file].sha256, device)
    except GraphError:
        raise
    except Exception as error:
        raise device_failed("a graph was loaded", error) from error


def _capture_options(manifest: EncodeManifest, graph: GraphInfo, options: LoadOptions) -> CaptureOptions:
    """Return the capture options: a batch has at most ``batch_tokens`` tokens, or one longer input."""
    limits = manifest.limits
    largest = {axis.name: axis.maximum for axis in graph.signature.axes}
    return CaptureOptions(
        largest={**largest, TOKENS: max(options.batch_tokens_for(manifest), limits.max_length)},
        upto=options.cuda_graph_max_tokens or graph.buckets.top,
        fill_example=partial(fill_example, max_length=limits.max_length),
    )
