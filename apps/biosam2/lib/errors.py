"""Errors a person can cause: each is one plain sentence that names the field and the value."""

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
