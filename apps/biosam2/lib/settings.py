"""Every --conf key of the app, typed and checked, with its default: the one place that has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lib.errors import UserError

Task = Literal["biosam2_2d", "biosam2_3d"]

TASKS: tuple[Task, ...] = get_args(Task)
"""Infer tasks that --conf models may choose from."""

ImageSize = Literal[256, 512, 1024]

IMAGE_SIZES: tuple[ImageSize, ...] = get_args(ImageSize)
"""Model input sizes in pixels that SAM 2's position encodings are used at here."""

MONAI_LABEL_KEYS = frozenset({"auth_token", "preload", "server_mode", "zoo_repo", "zoo_source"})
"""Keys that MONAI Label 0.8.5 reads from the same --conf itself.

Found by its `conf.get` calls: `interfaces/app.py` (server_mode), `interfaces/config.py` (auth_token),
`tasks/infer/bundle.py` (preload), `utils/others/generic.py` (zoo_repo, zoo_source; its models is ours).
They are let through unread.
"""

_MEANT = {
    "checkpoint": "the name of a checkpoint or a path",
    "device": "auto, cpu, mps, cuda or cuda:N",
    "image_size": f"one of {', '.join(map(str, IMAGE_SIZES))}",
    "cache_gb": "a number above 0 and at most 1024",
    "labels": "different names separated by commas, such as liver,spleen",
    "models": f"some of {', '.join(TASKS)}, separated by commas",
    "zoom": "true or false",
}


def _listed(value: Any) -> Any:
    """The names in a comma-separated text; other values as they are."""
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(","))
    if not all(name and name.isprintable() for name in names) or len(set(names)) != len(names):
        raise ValueError("blank or repeated name")
    return names


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _size(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value) else value


Text = BeforeValidator(_stripped)
Names = BeforeValidator(_listed)


class Settings(BaseModel):
    """What the person who starts the server may choose.

    Attributes
    ----------
    checkpoint
        Name in the catalogue, or path of a checkpoint file.
    device
        Where the model runs; ``auto`` takes a GPU if there is one.
    image_size
        Side of the model's square input in pixels; None is the checkpoint's own.
    cache_gb
        Budget of the embedding cache in gigabytes; None chooses by the device (`lib.sam.model`).
    labels
        Structures to annotate. Never empty: without an advertised one nobody can click in OHIF.
    models
        Infer tasks to offer.
    zoom
        Whether a small object may be segmented in an enlarged part of its slice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Annotated[str, Text, Field(min_length=1)] = "biosam2_nano"
    device: Annotated[str, Text, Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$")] = "auto"
    image_size: Annotated[ImageSize | None, BeforeValidator(_size), Text] = None
    cache_gb: Annotated[float | None, Text, Field(gt=0, le=1024)] = None
    labels: Annotated[tuple[str, ...], Names, Field(min_length=1)] = ("structure",)
    models: Annotated[tuple[Task, ...], Names, Field(min_length=1)] = TASKS
    zoom: Annotated[bool, Text] = True

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> Settings:
        """The settings that ``--conf KEY VALUE`` pairs mean.

        Parameters
        ----------
        conf
            Values as text, as MONAI Label hands them to the app.

        Raises
        ------
        UserError
            If a key is unknown, or a value is not what its key takes.
        """
        ours = {key: value for key, value in conf.items() if key not in MONAI_LABEL_KEYS}
        for key in ours:
            if key not in cls.model_fields:
                known = ", ".join([*cls.model_fields, *sorted(MONAI_LABEL_KEYS)])
                raise UserError(f"--conf {key} is not a setting; the settings are {known}.")
        try:
            return cls(**ours)  # type: ignore[arg-type]  # pydantic turns the text into each field's type
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            raise UserError(f"--conf {key} must be {_MEANT[key]}, not {_shown(conf[key])}.") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
