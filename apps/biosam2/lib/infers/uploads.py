"""Files that the server itself has stored for one request, told from any other path in it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

# what tempfile.NamedTemporaryFile, which MONAI Label stores uploads with, calls its files
_NAME = re.compile(r"tmp[a-z0-9_]{8}(\..*)?")


def is_upload(path: Path) -> bool:
    """Whether a path is that of an uploaded file: one in the temporary folder, with an unguessable name."""
    return path.parent == Path(tempfile.gettempdir()) and bool(_NAME.fullmatch(path.name)) and path.is_file()
