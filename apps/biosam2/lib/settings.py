"""Every --conf key of the app, typed and checked, with its default: the one place that has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lib.errors import UserError
from lib.trainers.retrain.plan import MEANT, Plan

Task = Literal["biosam2_2d", "biosam2_3d", "biosam2_auto"]

TASKS: tuple[Task, ...] = get_args(Task)
"""Infer tasks that --conf models may choose from."""

ImageSize = Literal[256, 512, 1024]

IMAGE_SIZES: tuple[ImageSize, ...] = get_args(ImageSize)
"""Model input sizes in pixels that SAM 2's position encodings are used at here."""

MLFLOW = r"^(https?|file|(sqlite|postgresql|mysql|mssql)(\+[a-z0-9]+)?)://\S+$"
"""Addresses that --conf mlflow takes: of a server, a folder or a database."""

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
    "versions": "the path of a folder",
    "retrain": MEANT,
    "retrain_when": "idle or always",
    "scoring": "idle or off",
    "mlflow": "the address of a tracking server such as http://mlflow:5000, or of a database",
    "keep_versions": "a whole number from 2 to 1000",
    "claim_minutes": "a whole number from 1 to 1440",
    "stream_minutes": "a whole number from 1 to 1440",
    "stream_gb": "a number above 0 and at most 1024",
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


def _folder(value: Any) -> Any:
    """The path that a text means; it need not exist, but must not be something else than a folder."""
    if not isinstance(value, str):
        return value
    path = Path(value.strip()).expanduser()
    if not value.strip() or (path.exists() and not path.is_dir()):
        raise ValueError("blank or no folder")
    return path


def _planned(value: Any) -> Any:
    """A plan for retraining as it is written in full; None for "off"."""
    if not isinstance(value, str):
        return value
    plan = Plan.parse(value)
    return str(plan) if plan else None


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
    versions
        Folder of the versions that training makes; None is ``model/versions`` of the app.
    retrain
        When to train without being asked, as `lib.trainers.retrain.plan.Plan` reads it; None is never.
    retrain_when
        Whether such a training waits while people are annotating ("idle") or not ("always").
    mlflow
        Tracking address of the registry that versions are entered into; None is a file of our own.
    keep_versions
        How many versions stay on the disk.
    claim_minutes
        For how long a case that was given out is kept for one annotator, counted from the last work on it.
    scoring
        Whether the unlabelled images are scored for the next case while nobody annotates ("idle") or not.
    stream_minutes
        For how long a picture that a client has sent by itself, and what is followed over such pictures, is
        kept without a request for it.
    stream_gb
        Memory for these pictures and for what is followed over them, in gigabytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Annotated[str, Text, Field(min_length=1)] = "biosam2_nano"
    device: Annotated[str, Text, Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$")] = "auto"
    image_size: Annotated[ImageSize | None, BeforeValidator(_size), Text] = None
    cache_gb: Annotated[float | None, Text, Field(gt=0, le=1024)] = None
    labels: Annotated[tuple[str, ...], Names, Field(min_length=1)] = ("structure",)
    models: Annotated[tuple[Task, ...], Names, Field(min_length=1)] = TASKS
    zoom: Annotated[bool, Text] = True
    versions: Annotated[Path | None, BeforeValidator(_folder)] = None
    retrain: Annotated[str | None, BeforeValidator(_planned)] = None
    retrain_when: Annotated[Literal["idle", "always"], Text] = "idle"
    mlflow: Annotated[str | None, Text, Field(pattern=MLFLOW)] = None
    keep_versions: Annotated[int, Text, Field(ge=2, le=1000)] = 10
    claim_minutes: Annotated[int, Text, Field(ge=1, le=1440)] = 30
    scoring: Annotated[Literal["idle", "off"], Text] = "idle"
    stream_minutes: Annotated[int, Text, Field(ge=1, le=1440)] = 30
    stream_gb: Annotated[float, Text, Field(gt=0, le=1024)] = 2.0

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
