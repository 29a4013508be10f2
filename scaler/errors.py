"""Errors named after what the caller does next; library errors become ours in `translate`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta


class ScalerError(Exception):
    """Anything we raise on purpose. The message says what happened and what to do about it."""


class TransientError(ScalerError):
    """May pass by itself: leave everything as it is, the next tick is the retry."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TransientError):
    """No answer, or none in time. Nothing is known, which is not zero."""


class Conflict(TransientError):
    """Somebody else changed it meanwhile; look again and decide again."""


class Busy(TransientError):
    """Somebody else holds what is needed, and was not waited for any longer. Nothing changed."""


class PermanentError(ScalerError):
    """A person must change something; the target is parked and retried slowly."""


class NotFound(PermanentError):
    """The platform has no such target."""


class Forbidden(PermanentError):
    """The platform knows us and refuses."""


class Unsupported(PermanentError):
    """The platform cannot do this."""


class ManagedElsewhere(PermanentError):
    """Somebody else decides on the count of this target."""


class ConfigError(ScalerError):
    """A file or setting is invalid; the message names file, line, field and remedy."""


class Refused(ScalerError):
    """A command that a limit, a pause or a budget forbids."""


@contextmanager
def translate(table: Mapping[type[Exception], type[ScalerError]], *, doing: str) -> Iterator[None]:
    """Raise library exceptions as ours, the original as the cause.

    The first entry of `table` whose type matches wins, so the widest types stand last.
    What no entry matches is a bug and passes unchanged.
    """
    try:
        yield
    except Exception as error:
        for theirs, ours in table.items():
            if isinstance(error, theirs):
                detail = str(error) or type(error).__name__
                raise ours(f"{doing}: {detail}") from error
        raise
