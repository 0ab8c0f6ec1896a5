"""Errors that people read: each is one plain sentence that names the field and the value."""

from __future__ import annotations


class UserError(Exception):
    """A request, a setting or a file that cannot be used as it is (HTTP 400)."""

    status: int = 400


class NotFound(UserError):
    """Something that was named does not exist (HTTP 404)."""

    status = 404


class Unprocessable(UserError):
    """A file that is there but cannot be read as what it should be (HTTP 422)."""

    status = 422


class Unavailable(UserError):
    """Another server that this one needs, such as the PACS, does not answer as it should (HTTP 503)."""

    status = 503


class Conflict(UserError):
    """Something that was named is in use (HTTP 409)."""

    status = 409


class Cancelled(UserError):
    """The person, or a client that went away, no longer wants the answer (HTTP 409)."""

    status = 409

    def __init__(self, sentence: str = "The request was cancelled.") -> None:
        super().__init__(sentence)


class Busy(UserError):
    """The server has as much to do as it takes on (HTTP 503)."""

    status = 503
