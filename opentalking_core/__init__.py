"""What a plugin's author imports. The hooks are in `opentalking_core.hookspecs`, the test suites in `.testing`."""

from .builtin_plugins.model_types import ModelType, PortraitRecipe
from .bundles.bundle import AvatarBundle, Problem, list_avatar_dirs, load_avatar_bundle
from .bundles.manifest import AvatarManifest, is_avatar_id, is_bundle_path
from .bundles.mouth import MouthLandmarks, Point
from .bundles.store import MANIFEST, BundleStore, BundleVersion, ChangeStamp, FileInfo, FileReader
from .errors import (
    AlreadyExists,
    InvalidBundle,
    InvalidManifest,
    InvalidURL,
    NotFound,
    OpenTalkingError,
    PluginError,
    StoreFull,
    StoreUnavailable,
)
from .hookspecs import hookimpl

__all__ = [
    "MANIFEST",
    "AlreadyExists",
    "AvatarBundle",
    "AvatarManifest",
    "BundleStore",
    "BundleVersion",
    "ChangeStamp",
    "FileInfo",
    "FileReader",
    "InvalidBundle",
    "InvalidManifest",
    "InvalidURL",
    "ModelType",
    "MouthLandmarks",
    "NotFound",
    "OpenTalkingError",
    "PluginError",
    "Point",
    "PortraitRecipe",
    "Problem",
    "StoreFull",
    "StoreUnavailable",
    "hookimpl",
    "is_avatar_id",
    "is_bundle_path",
    "list_avatar_dirs",
    "load_avatar_bundle",
]
