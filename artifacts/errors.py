"""Errors about artifacts. Messages name the command that fixes the problem."""

from precast.graphs.errors import PrecastError


class ArtifactError(PrecastError):
    """Base class of all errors about artifacts."""


class NotAnArtifactError(ArtifactError):
    """The path is not an artifact: it does not exist, is not a directory, or holds no manifest."""


class ManifestError(ArtifactError):
    """The manifest violates its schema, or its digest does not match its content."""


class FormatVersionError(ArtifactError):
    """The artifact has a format version that this runtime does not read."""


class OversizedError(ArtifactError):
    """A header, a file or the number of files exceeds what any artifact needs."""


class UnsafePathError(ArtifactError):
    """A path leaves the artifact, is a link, or is not a regular file."""


class UnexpectedFileError(ArtifactError):
    """The directory holds a file that the manifest does not list."""


class MissingFileError(ArtifactError):
    """The manifest lists a file that does not exist."""


class FileSizeError(ArtifactError):
    """The size of a file differs from the manifest, usually because a copy was interrupted."""


class FileHashError(ArtifactError):
    """The SHA-256 of a file differs from the manifest."""


class DeviceError(ArtifactError):
    """The artifact was built for another device."""


class ArchitectureError(ArtifactError):
    """The artifact was built for another processor architecture."""


class InstructionSetError(ArtifactError):
    """The artifact uses instructions that this processor lacks."""


class TorchVersionError(ArtifactError):
    """The artifact was built with another release of torch, whose internals compiled graphs call."""


class UnreadableError(ArtifactError):
    """A file cannot be read: permissions, a failing disk, or it was removed meanwhile."""


class TokenizerFileError(ArtifactError):
    """The tokenizer file cannot be parsed by the tokenizers library."""


class WeightsError(ArtifactError):
    """The weights file is malformed, or lacks tensors that the graphs bind."""


class ArtifactExistsError(ArtifactError):
    """The output path exists already."""
