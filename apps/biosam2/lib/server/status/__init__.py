"""The status page at `/biosam2/`: what is served, what trains, every version, the labels, the worst cases."""

from lib.server.status.routes import router

__all__ = ["router"]
