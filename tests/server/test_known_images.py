"""Which images of a request are known: what the datastore lists, and any series that its archive has."""

from __future__ import annotations

from main import BioSAM2App

from lib.datastores.dicomweb import PacsDatastore


class _Folder:
    def list_images(self) -> list[str]:
        return ["brain"]


class _Archive(PacsDatastore):
    """An archive that lists one series and has another one, which its filter leaves out."""

    def __init__(self) -> None:
        pass

    def list_images(self) -> list[str]:
        return ["1.2.3.4"]

    def has(self, image_id: str) -> bool:
        return image_id in ("1.2.3.4", "1.2.3.9")


def test_an_image_of_a_folderis_known_if_it_is_listed():
    assert BioSAM2App.is_known(None, "brain", _Folder())
    assert not BioSAM2App.is_known(None, "1.2.3.4", _Folder())


def test_a_series_that_the_list_lacks_is_asked_of_the_archive():
    known = [BioSAM2App.is_known(None, uid, _Archive()) for uid in ("1.2.3.4", "1.2.3.9", "1.2.3.5")]
    assert known == [True, True, False]
