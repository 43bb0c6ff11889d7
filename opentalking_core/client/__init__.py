"""A client of the avatar service, for runtimes and other programs.

from opentalking_core.client import AvatarClient, fetch_bundle

with AvatarClient("http://avatars:8000") as client:
    print(client.list())
folder = fetch_bundle("http://avatars:8000", "alice", cache="/var/cache/avatars")
"""

from .bundle_cache import fetch_bundle
from .clients import AsyncAvatarClient, AvatarClient
from .operations import ListenerEvent, ServerError, ServerUnreachable, UploadProgress

__all__ = [
    "AsyncAvatarClient",
    "AvatarClient",
    "ListenerEvent",
    "ServerError",
    "ServerUnreachable",
    "UploadProgress",
    "fetch_bundle",
]
