"""The manifest, format version 2. It is strict: unknown keys and values of another type are errors."""

from __future__ import annotations

import hashlib
import json
import re
from reprlib import repr as shortened
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from precast.artifacts.base import Size, StrictModel
from precast.artifacts.build_info import BuildInfo
from precast.artifacts.errors import UnsafePathError
from precast.artifacts.output_info import ClassifyInfo, EmbedInfo, GenerateInfo, HiddenInfo
from precast.artifacts.tokenization import DecodingInfo, LanguageInfo
from precast.graphs.buckets import Buckets
from precast.graphs.encode import EncodeLimits, Task
from precast.graphs.generation import BUCKET_AXES
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Signature

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "BuildInfo",
    "ClassifyInfo",
    "DecodingInfo",
    "EmbedInfo",
    "EncodeManifest",
    "FileInfo",
    "GenerateInfo",
    "GenerateManifest",
    "GraphInfo",
    "HiddenInfo",
    "LanguageInfo",
    "Manifest",
    "ManifestBase",
    "ModelInfo",
    "ParityInfo",
    "TokenizationInfo",
    "VariantInfo",
    "manifest_digest",
]

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"

_PATH = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,99}(/[a-z0-9_][a-z0-9_.-]{0,99})?")
_SHA256 = r"^[0-9a-f]{64}$"

Sha256 = Annotated[str, Field(pattern=_SHA256)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]
"""Duration of one batch in seconds; the upper limit keeps sums finite."""


class ModelInfo(StrictModel):
    """The compiled checkpoint."""

    name: str
    """The hub id, or the name of the local directory, that was compiled."""
    family: str
    task: Task
    parameters: Size
    vocab_size: Annotated[int, Field(gt=0, lt=1 << 31)]
    """Token ids reach the graphs as 32-bit numbers."""
    hidden_size: Annotated[int, Field(gt=0)]


class VariantInfo(StrictModel):
    """One file of a graph. All variants of a graph compute the same, with kernels tuned for different
    sizes."""

    file: str
    max_size: Annotated[int, Field(gt=0)]
    """The largest size on the axis of the graph's buckets that this variant runs."""
    tuned_at: Annotated[int, Field(gt=0)]
    """The size on that axis for which its kernels were tuned."""
    choices: dict[str, str]
    """The fastest kernel of each matrix multiplication that was autotuned."""


class GraphInfo(StrictModel):
    """One graph: its files, its signature and its buckets."""

    variants: Annotated[tuple[VariantInfo, ...], Field(min_length=1, max_length=16)]
    """In order of ``max_size``; a batch runs on the first one that is large enough."""
    signature: Signature
    buckets: Buckets
    costs: tuple[Seconds, ...] | None
    """Seconds of a batch at each bucket, profiled on the compiling machine; None if it was not profiled."""
    weights: Literal["bound", "prepacked"]
    """``bound``: read by name from the weights file. ``prepacked``: stored in the graph's file, in its
    layout."""
    constants: tuple[str, ...]
    """Names of the tensors in the weights file that this graph binds."""
    prepacked_bytes: Size
    """Upper bound on the size of the weights in the graph's files, in bytes."""

    @model_validator(mode="after")
    def _each_bucket_has_a_cost(self) -> GraphInfo:
        if self.costs is not None and len(self.costs) != len(self.buckets.sizes):
            raise ValueError(
                f"{len(self.costs)} costs for {len(self.buckets.sizes)} buckets, expected one for each"
            )
        return self


class TokenizationInfo(StrictModel):
    """How texts become token ids, and ids become texts."""

    file: str | None
    """The tokenizer file; None if the checkpoint has no tokenizer, so that only token ids are accepted."""
    token_types: bool
    """Whether the model gets the tokenizer's token types; otherwise they are zero."""
    truncation_side: Literal["left", "right"]
    """The side at which an input that is too long is truncated by default."""
    empty_id: int
    """The token that stands for a text without tokens."""
    special_ids: tuple[int, ...]
    """Tokens that the tokenizer adds around a text; pooling that ignores prompts needs to know them."""
    decoding: DecodingInfo | None
    """How ids become text; None if the artifact does not generate."""
    languages: LanguageInfo | None
    """The languages of the tokenizer; None if it treats all languages alike."""

    @model_validator(mode="after")
    def _parts_have_a_tokenizer(self) -> TokenizationInfo:
        if self.file is None and (self.decoding, self.languages) != (None, None):
            raise ValueError("decoding or languages without a tokenizer file, expected null for both")
        return self


class ParityInfo(StrictModel):
    """The result of the comparison with Hugging Face, and the tolerances that it passed."""

    oracle: str
    inputs: Size
    tokens: Size
    max_abs_error: float
    max_relative_error: float
    min_cosine: float
    allowed_relative_error: float
    allowed_cosine: float


class FileInfo(StrictModel):
    """Digest and size of a file."""

    sha256: Sha256
    bytes: Size


class ManifestBase(StrictModel):
    """The keys that manifests of all kinds have."""

    format_version: Literal[2]
    model: ModelInfo
    build: BuildInfo
    graphs: Annotated[dict[GraphName, GraphInfo], Field(min_length=1, max_length=64)]
    weights: str | None
    """The weights file; None if every graph stores its own weights."""
    tokenization: TokenizationInfo
    parity: ParityInfo | None
    """None if the comparison was skipped."""
    notes: tuple[str, ...]
    """Remarks for people: ignored weights, a missing tokenizer, a skipped check."""
    files: Annotated[dict[str, FileInfo], Field(max_length=256)]

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileInfo]) -> dict[str, FileInfo]:
        for path in files:
            if not _PATH.fullmatch(path) or ".." in path or path == MANIFEST_NAME:
                raise UnsafePathError(
                    f"the manifest names the file {shortened(path)}, expected a plain name at most one "
                    f"folder deep; compile the artifact again"
                )
        return files

    def named_files(self) -> set[str]:
        """Return every file that some part of the manifest refers to."""
        named = {variant.file for graph in self.graphs.values() for variant in graph.variants}
        decoding = self.tokenization.decoding
        others = (self.weights, self.tokenization.file, decoding.pieces_file if decoding else None)
        return named | {name for name in others if name is not None}

    def to_json(self) -> str:
        """Return readable JSON that ends with the digest of all other keys."""
        data = self.model_dump(mode="json")
        return json.dumps({**data, "digest": manifest_digest(data)}, indent=2, ensure_ascii=False) + "\n"


class EncodeManifest(ManifestBase):
    """The manifest of an encoder: one graph, ``encode``."""

    kind: Literal["encode"] = "encode"
    limits: EncodeLimits
    output: Annotated[EmbedInfo | ClassifyInfo | HiddenInfo, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _parts_fit(self) -> EncodeManifest:
        expected = _OUTPUTS.get(self.model.task)
        if expected is None or not isinstance(self.output, expected):
            raise ValueError(f"the task {self.model.task} does not fit an output of kind {self.output.kind}")
        _check_graphs(self, {GraphName.ENCODE})
        return self


class GenerateManifest(ManifestBase):
    """The manifest of an encoder-decoder that generates."""

    kind: Literal["generate"] = "generate"
    limits: GenerateLimits
    output: GenerateInfo

    @model_validator(mode="after")
    def _parts_fit(self) -> GenerateManifest:
        if self.model.task != "generate":
            raise ValueError(f"the task {self.model.task} does not fit an output of kind generate")
        _check_graphs(self, set(BUCKET_AXES))
        return self


Manifest: TypeAlias = EncodeManifest | GenerateManifest

_OUTPUTS: dict[str, type[StrictModel]] = {
    "embed": EmbedInfo,
    "classify": ClassifyInfo,
    "rerank": ClassifyInfo,
    "token-classify": ClassifyInfo,
    "hidden": HiddenInfo,
}


def _check_graphs(manifest: ManifestBase, expected: set[GraphName]) -> None:
    if set(manifest.graphs) != expected:
        raise ValueError(
            f"expected the graphs {', '.join(sorted(expected))}, found {', '.join(sorted(manifest.graphs))}"
        )


def manifest_digest(data: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest as canonical JSON: keys sorted, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
