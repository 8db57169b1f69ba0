"""Errors a user may meet: each says what was expected, what came, and which file or key it was.

Every class is also the matching builtin, so callers can catch either. ``cli`` prints the message
as one sentence and exits with ``exit_status``.
"""

from __future__ import annotations


class MienError(Exception):
    """The root of all errors that mien raises on purpose; 1 means that the work failed."""

    exit_status = 1


class UsageError(MienError, ValueError):
    """Wrong options, or options that contradict each other or the input."""

    exit_status = 2


class Refused(MienError, PermissionError):
    """Something that a rule forbids; the message names the rule."""

    exit_status = 2


class MediaError(MienError, OSError):
    """A file or stream that cannot be read or written."""


class NoFace(MienError, LookupError):
    """A portrait in which no face, or not the one face that is needed, can be found."""


class ModelNotFound(MienError, LookupError):
    """A model that the zoo does not know or whose file is not there."""


class ModelError(MienError, ValueError):
    """A model file that is damaged or does not keep its contract."""


class ProviderError(MienError, RuntimeError):
    """An execution provider that was asked for and is not there."""
