"""MONAI Label's app instance, as several threads may ask for it."""

from __future__ import annotations

import threading

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.utils.app import app_instance

_lock = threading.Lock()


def ready_app() -> MONAILabelApp:
    """The one instance of the app.

    MONAI Label makes it when it is first asked for, and again after `POST /reload`: without the lock, every
    request that comes in meanwhile would load a model of its own.
    """
    with _lock:
        return app_instance()
