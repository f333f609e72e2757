"""The errors a user can cause and mend: one tree, so that a caller can catch all of them at once."""

from typing import Any


class UserError(Exception):
    """Something the user can put right; the message says what was found, what was needed, what to do.

    Args:
        message: Complete sentences, shown as they are.
        **facts: The values behind the message, kept in `facts` for programs.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class OptionError(UserError, ValueError):
    """An option's value is unknown, out of range, or does not go with another one."""


class DataError(UserError):
    """The image folder cannot be used as it is."""


class UnreadableImageError(UserError):
    """A file is no image that can be used; the message is the reason in a few words."""


class FeatureFileError(UserError):
    """A feature file is missing, damaged, of another format, or cannot be written."""


class DamagedHeaderError(FeatureFileError):
    """Spec, provenance or golden rows of a feature file are damaged, so nothing in it can be believed."""


class RowRangeError(UserError):
    """A row holds numbers that the type it shall be stored as cannot hold."""


class SpecMismatchError(UserError):
    """Rows of two specs were about to be mixed or compared."""


class DriftError(UserError):
    """A backbone no longer computes the rows that it computed once."""


class LockedError(UserError):
    """Another process is writing the same feature file."""


class BackboneError(UserError):
    """A backbone is unknown, or cannot be built or run here."""


class WeightsError(BackboneError):
    """Pretrained weights could not be downloaded, read, or do not fit the backbone."""


class HeadFileError(UserError):
    """A head file is missing, damaged, or of another format."""


class TrainingError(UserError, ValueError):
    """The rows do not allow a head to be trained or scored."""


class ExportError(UserError):
    """A model could not be exported, or is not what was measured."""


class CertificateError(UserError):
    """A certificate is missing, damaged, or does not belong to a model."""


class OutputError(UserError):
    """Results cannot be written where they were to go."""
