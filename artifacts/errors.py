"""One error for each way in which an artifact can be unfit. Each says what to run."""

from precast.graphs.errors import PrecastError


class ArtifactError(PrecastError):
    """The root of all below."""


class NotAnArtifactError(ArtifactError):
    """The path holds no artifact: nothing there, no directory, or no manifest."""


class ManifestError(ArtifactError):
    """The manifest does not follow its schema, or its digest does not match its content."""


class FormatVersionError(ArtifactError):
    """The artifact has a format version that this runtime does not read."""


class OversizedError(ArtifactError):
    """A header, a file count or a file is larger than any artifact needs."""


class UnsafePathError(ArtifactError):
    """A path leaves the artifact, is a link, or is no plain file."""


class UnexpectedFileError(ArtifactError):
    """The directory holds a file that the manifest does not list."""


class MissingFileError(ArtifactError):
    """The manifest lists a file that is not there."""


class FileSizeError(ArtifactError):
    """A file is shorter or longer than the manifest says: a broken copy, usually."""


class FileHashError(ArtifactError):
    """A file's SHA-256 is not the manifest's."""


class DeviceError(ArtifactError):
    """Built for another device."""


class ArchitectureError(ArtifactError):
    """Built for another processor architecture."""


class InstructionSetError(ArtifactError):
    """Built with instructions that this processor lacks."""


class TorchVersionError(ArtifactError):
    """Built with another torch; compiled graphs call its internals."""


class UnreadableError(ArtifactError):
    """A file of the artifact cannot be read: no permission, a failing disk, or it vanished meanwhile."""


class TokenizerFileError(ArtifactError):
    """The tokenizer file is not one that the tokenizers library reads."""


class WeightsError(ArtifactError):
    """The weights file is malformed, or its tensors are not those that the graphs bind."""


class ArtifactExistsError(ArtifactError):
    """There is something at the output path already."""
