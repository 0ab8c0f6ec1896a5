"""What can go wrong between CVAT and the BioSAM-2 server: each error is one sentence for people."""

from __future__ import annotations


class BioSAM2Error(Exception):
    """The server did not do what was asked, or could not be asked.

    Parameters
    ----------
    sentence : str
    status : int
        The HTTP status that says the same.
    """

    def __init__(self, sentence: str, status: int = 500) -> None:
        super().__init__(sentence)
        self.status = status


class BadRequest(BioSAM2Error):
    """What CVAT sent cannot be used as it is."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, 400)


class Unreachable(BioSAM2Error):
    """The server does not answer."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, 503)


class Expired(BioSAM2Error):
    """The server no longer has what was named: a picture, or the memory of a tracked object."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, 410)
