"""``PrecastError``, the root of all errors that precast raises on purpose, and the errors of graph
contracts."""


class PrecastError(Exception):
    """Base class of all precast errors. A message says what was expected, what was found and what to do."""


class SignatureError(PrecastError):
    """A signature is malformed, or a tensor does not match the buffer that it was passed for."""


class BucketError(PrecastError):
    """Buckets are malformed, or a size is above the top bucket."""


class LimitsError(PrecastError):
    """The limits of an artifact contradict each other, or exceed what the format allows."""


class ProgramError(PrecastError):
    """A portable program cannot be written, read or run."""
