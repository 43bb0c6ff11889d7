"""The HTTP API: a Falcon ASGI app that translates between HTTP and `AvatarService`, and does nothing else."""

from .app import create_app

__all__ = ["create_app"]
