"""What a plugin's author imports. The hooks are in `opentalking_core.hookspecs`, the test suites in `.testing`."""

from .bundles.bundle import AvatarBundle
from .bundles.folder import list_avatar_dirs, load_avatar_bundle
from .bundles.manifest import AvatarManifest, is_avatar_id, is_bundle_path
from .bundles.model_type import BundleMaker, ModelType, OwnMetadata, PortraitRecipe
from .bundles.mouth import MouthLandmarks, MouthTracker, Point, mouth_metadata
from .bundles.source import AvatarSource, BundleFile, BundleMetadata, Frame, SourceKind
from .bundles.standard_types import STANDARD_MODEL_TYPES
from .bundles.store import (
    MANIFEST,
    PREVIEW,
    BundleStore,
    BundleVersion,
    ChangeStamp,
    FileInfo,
    FileReader,
    PresignedURLs,
    ReplaceableManifests,
)
from .bundles.store_helpers import check_new_bundle, chunk_ranges, concurrently, finish
from .errors import (
    AlreadyExists,
    InvalidBundle,
    InvalidManifest,
    InvalidRequest,
    InvalidURL,
    ManifestChanged,
    NotFound,
    NotSupported,
    OpenTalkingError,
    PluginError,
    Problem,
    StoreFull,
    StoreUnavailable,
)
from .hookspecs import Action, hookimpl

__all__ = [
    "MANIFEST",
    "PREVIEW",
    "STANDARD_MODEL_TYPES",
    "Action",
    "AlreadyExists",
    "AvatarBundle",
    "AvatarManifest",
    "AvatarSource",
    "BundleFile",
    "BundleMaker",
    "BundleMetadata",
    "BundleStore",
    "BundleVersion",
    "ChangeStamp",
    "FileInfo",
    "FileReader",
    "Frame",
    "InvalidBundle",
    "InvalidManifest",
    "InvalidRequest",
    "InvalidURL",
    "ManifestChanged",
    "ModelType",
    "MouthLandmarks",
    "MouthTracker",
    "NotFound",
    "NotSupported",
    "OpenTalkingError",
    "OwnMetadata",
    "PluginError",
    "Point",
    "PortraitRecipe",
    "PresignedURLs",
    "Problem",
    "ReplaceableManifests",
    "SourceKind",
    "StoreFull",
    "StoreUnavailable",
    "check_new_bundle",
    "chunk_ranges",
    "concurrently",
    "finish",
    "hookimpl",
    "is_avatar_id",
    "is_bundle_path",
    "list_avatar_dirs",
    "load_avatar_bundle",
    "mouth_metadata",
]
