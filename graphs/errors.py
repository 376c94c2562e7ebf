"""The root of every error that precast raises on purpose."""


class PrecastError(Exception):
    """Says what was expected, what was found and what to do."""


class SignatureError(PrecastError):
    """A tensor does not fit the buffer it was meant for."""


class BucketError(PrecastError):
    """A size has no bucket."""


class LimitsError(PrecastError):
    """EncodeLimits that contradict each other, or that no machine could serve."""


class ProgramError(PrecastError):
    """A portable program cannot be written, read or run."""
