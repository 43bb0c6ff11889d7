"""The HTTP API: an ASGI app, made with Falcon, that translates between HTTP and `AvatarService`."""

from .app import create_app

__all__ = ["create_app"]
