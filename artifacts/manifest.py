"""The manifest, format version 2. Strict: an unknown key or a value of another type is an error."""

from __future__ import annotations

import hashlib
import json
import re
from reprlib import repr as shortened
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from precast.artifacts.base import Size, StrictModel
from precast.artifacts.build_info import BuildInfo
from precast.artifacts.errors import FormatVersionError, ManifestError, UnsafePathError
from precast.artifacts.output_info import ClassifyInfo, EmbedInfo, GenerateInfo, HiddenInfo
from precast.artifacts.tokenization import DecodingInfo, LanguageInfo
from precast.graphs import strict_json
from precast.graphs.buckets import Buckets
from precast.graphs.encode import EncodeLimits, Task
from precast.graphs.errors import PrecastError
from precast.graphs.generation import BUCKET_AXES
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Signature

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"

_PATH = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,99}(/[a-z0-9_][a-z0-9_.-]{0,99})?")
_SHA256 = r"^[0-9a-f]{64}$"

Sha256 = Annotated[str, Field(pattern=_SHA256)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]
"""Of one batch; sums of them stay finite."""


class ModelInfo(StrictModel):
    name: str
    """The checkpoint as it was named when compiling."""
    family: str
    task: Task
    parameters: Size
    vocab_size: Annotated[int, Field(gt=0, lt=1 << 31)]
    """Token ids reach the graphs as 32-bit numbers."""
    hidden_size: Annotated[int, Field(gt=0)]


class VariantInfo(StrictModel):
    """One file of a graph. Several hold the same operators, their kernels chosen for other sizes."""

    file: str
    max_size: Annotated[int, Field(gt=0)]
    """The largest batch that it runs, in sizes of the axis of the graph's buckets."""
    tuned_at: Annotated[int, Field(gt=0)]
    """The size of that axis that its kernels were chosen for."""
    choices: dict[str, str]
    """For each matrix multiplication that was searched for, the kernel that won."""


class GraphInfo(StrictModel):
    variants: Annotated[tuple[VariantInfo, ...], Field(min_length=1, max_length=16)]
    """By ascending ``max_size``; a batch runs on the first that holds it."""
    signature: Signature
    buckets: Buckets
    costs: tuple[Seconds, ...] | None
    """Of a batch at each bucket, measured when it was compiled. None where nothing was."""
    weights: Literal["bound", "prepacked"]
    """``bound``: by name from the weights file. ``prepacked``: inside the graph, laid out for it."""
    constants: tuple[str, ...]
    """Tensors of the weights file that this graph binds."""
    prepacked_bytes: Size

    @model_validator(mode="after")
    def _each_bucket_has_a_cost(self) -> GraphInfo:
        if self.costs is not None and len(self.costs) != len(self.buckets.sizes):
            raise ValueError(f"{len(self.costs)} costs of {len(self.buckets.sizes)} buckets")
        return self


class TokenizationInfo(StrictModel):
    file: str | None
    """None: the checkpoint has no tokenizer and only token ids are taken."""
    token_types: bool
    """Whether the tokenizer's token types reach the model (they are zero otherwise)."""
    truncation_side: Literal["left", "right"]
    """Where an over-long input is cut by default."""
    empty_id: int
    """The one token that stands for a text without tokens."""
    special_ids: tuple[int, ...]
    """Tokens that the tokenizer adds around a text; pooling without a prompt needs to know them."""
    decoding: DecodingInfo | None
    """How ids become text again; None where nothing is generated."""
    languages: LanguageInfo | None
    """None where the tokenizer treats all languages alike."""

    @model_validator(mode="after")
    def _parts_have_a_tokenizer(self) -> TokenizationInfo:
        if self.file is None and not self.decoding is self.languages is None:
            raise ValueError("decoding or languages without a tokenizer file")
        return self


class ParityInfo(StrictModel):
    oracle: str
    inputs: Size
    tokens: Size
    max_abs_error: float
    max_relative_error: float
    min_cosine: float
    allowed_relative_error: float
    allowed_cosine: float


class FileInfo(StrictModel):
    sha256: Sha256
    bytes: Size


class ManifestBase(StrictModel):
    """What the manifests of all kinds have."""

    format_version: Literal[2]
    model: ModelInfo
    build: BuildInfo
    graphs: Annotated[dict[GraphName, GraphInfo], Field(min_length=1, max_length=64)]
    weights: str | None
    """The weights file; None if every graph carries its own."""
    tokenization: TokenizationInfo
    parity: ParityInfo | None
    notes: tuple[str, ...]
    files: Annotated[dict[str, FileInfo], Field(max_length=256)]

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileInfo]) -> dict[str, FileInfo]:
        for path in files:
            if not _PATH.fullmatch(path) or ".." in path or path == MANIFEST_NAME:
                raise UnsafePathError(
                    f"the manifest names the file {shortened(path)}; expected a plain name, at most one "
                    f"folder deep"
                )
        return files

    def named_files(self) -> set[str]:
        """Every file that some part of the manifest refers to."""
        named = {variant.file for graph in self.graphs.values() for variant in graph.variants}
        decoding = self.tokenization.decoding
        others = (self.weights, self.tokenization.file, decoding.pieces_file if decoding else None)
        return named | {name for name in others if name is not None}

    def to_json(self) -> str:
        """Readable JSON with the digest of the rest as its last key."""
        data = self.model_dump(mode="json")
        return json.dumps({**data, "digest": _digest(data)}, indent=2, ensure_ascii=False) + "\n"


class EncodeManifest(ManifestBase):
    """The manifest of an encoder: one graph, ``encode``."""

    kind: Literal["encode"] = "encode"
    limits: EncodeLimits
    output: Annotated[EmbedInfo | ClassifyInfo | HiddenInfo, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _parts_fit(self) -> EncodeManifest:
        expected = _OUTPUTS.get(self.model.task)
        if expected is None or not isinstance(self.output, expected):
            raise ValueError(f"task {self.model.task} with an output of kind {self.output.kind}")
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
            raise ValueError(f"task {self.model.task} with an output of kind generate")
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
_ADAPTER: TypeAdapter[Manifest] = TypeAdapter(Annotated[Manifest, Field(discriminator="kind")])


def _check_graphs(manifest: ManifestBase, expected: set[GraphName]) -> None:
    if set(manifest.graphs) != expected:
        raise ValueError(
            f"expected the graphs {sorted(expected)}, found {shortened(sorted(manifest.graphs))}"
        )


def parse_manifest(text: str) -> Manifest:
    """Read a manifest.

    Raises:
        FormatVersionError: another version.
        UnsafePathError: a listed path leaves the artifact.
        ManifestError: no JSON, a repeated key, a schema violation, or a digest that does not match.
    """
    try:
        return _parse(text)
    except RecursionError as error:
        # Which of the steps meets it first depends on how deep the caller stands itself.
        raise ManifestError("the manifest is nested too deep; compile the artifact again") from error


def _parse(text: str) -> Manifest:
    try:
        data = strict_json.loads(text)
    except ValueError as error:
        raise ManifestError(f"the manifest is no JSON ({error}); compile the artifact again") from error
    if not isinstance(data, dict):
        raise ManifestError(
            f"the manifest is no JSON object but a {type(data).__name__}; compile the artifact again"
        )
    version = data.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        raise FormatVersionError(
            f"the artifact has format version {shortened(version)}, this runtime reads {FORMAT_VERSION}; "
            f"compile it again: `{_compile_command(data)}`"
        )
    digest = data.pop("digest", None)
    if digest != _digest(data):
        raise ManifestError(
            f"the manifest was changed after it was written: its digest is {shortened(digest)}, "
            f"its content gives {_digest(data)}; copy or compile the artifact again"
        )
    try:
        manifest = _ADAPTER.validate_json(json.dumps(data))
    except UnsafePathError:
        raise
    except (ValidationError, PrecastError) as error:
        raise ManifestError(
            f"the manifest does not follow format version {FORMAT_VERSION}: {_reason(error)}"
        ) from error
    if manifest.named_files() != set(manifest.files):
        raise ManifestError(
            f"the manifest refers to {sorted(manifest.named_files())[:5]} "
            f"but lists {sorted(manifest.files)[:5]}"
        )
    return manifest


def _compile_command(data: dict[str, Any]) -> str:
    """The command that compiles an artifact of another format version again, as far as it tells."""
    parts: list[Any] = [data.get("model"), data.get("build")]
    model, build = (part if isinstance(part, dict) else {} for part in parts)
    named = {"--task": model.get("task"), "--device": build.get("device"), "--dtype": build.get("dtype")}
    options = [f"{option} {value}" for option, value in named.items() if isinstance(value, str)]
    name = model.get("name")
    return " ".join(["precast compile", name if isinstance(name, str) else "MODEL", "-o OUT", *options])


def _reason(error: Exception) -> str:
    """The first violations; a large manifest has room for thousands."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False)
    shown = [
        f"{'.'.join(map(str, one['loc'])) or 'manifest'}: {one['msg']}, found {shortened(one['input'])[:300]}"
        for one in found[:3]
    ]
    return "; ".join(shown) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _digest(data: dict[str, Any]) -> str:
    """SHA-256 of the strip_prefix JSON: keys sorted, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
