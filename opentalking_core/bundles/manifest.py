"""manifest.json: its fields, the summary that GET /avatars lists, and the rules for ids and paths."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from ..errors import InvalidManifest

if TYPE_CHECKING:
    from typing import Self

#: Larger manifests are refused. The largest real ones, with metadata of hundreds of frames, are far smaller.
MAX_MANIFEST_BYTES = 8 * 1024 * 1024

_MAX_SIDE_PIXELS = 1_000_000  # of width or height

#: An id becomes a folder's name. File systems allow 255 bytes, of which a store may need a few for a prefix.
MAX_ID_BYTES = 200
_ASCII_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


def is_avatar_id(text: str) -> bool:
    """Return whether `text` is a valid id: letters, marks and digits of any script, `-` and `_`; at most 200 bytes."""
    if text.isascii():  # fast path: a scan checks thousands of ids
        return _ASCII_ID.fullmatch(text) is not None
    return (
        all(char in "-_" or unicodedata.category(char)[0] in "LMN" for char in text)
        and len(text.encode()) <= MAX_ID_BYTES
    )


def is_bundle_path(path: str) -> bool:
    """Return whether `path` can name a file of a bundle: separated by `/`, relative, not hidden, no `..`, no NUL."""
    return (
        0 < len(path) <= 1024
        and "\0" not in path
        and "\\" not in path
        and not any("\ud800" <= char <= "\udfff" for char in path)  # lone surrogates: no store can encode them
        and all(part and not part.startswith(".") for part in path.split("/"))
    )


@dataclass(frozen=True, slots=True)
class AvatarSummary:
    """The six fields that GET /avatars lists of an avatar.

    Args:
        id: the bundle's folder name.
        name: the name to show; the id if the manifest has no name.
        model_type: the model that drives the avatar, e.g. "wav2lip".
        width: width of the output video, in pixels.
        height: height of the output video, in pixels.
        is_custom: whether POST /avatars/custom created the avatar, so that it may be deleted.
    """

    id: str
    name: str
    model_type: str
    width: int
    height: int
    is_custom: bool


def _refuse_constant(name: str) -> object:
    raise InvalidManifest(f"manifest.json can't be used: {name} is not JSON; write null or a number")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"must be a number above 0, not {value!r:.40}")
    return value


def _pixels(value: object) -> int:
    number = _number(value)
    if number != int(number) or number > _MAX_SIDE_PIXELS:
        raise ValueError(f"must be a whole number of pixels up to a million, not {value!r:.40}")
    return int(number)


#: An int stays an int, so that 25 is not written back as 25.0.
Number = Annotated[float, PlainValidator(_number), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
PixelCount = Annotated[
    int, PlainValidator(_pixels), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _MAX_SIDE_PIXELS})
]


class AvatarManifest(BaseModel):
    """A manifest.json. Keys that the bundle format doesn't define are kept (`model_extra`).

    Args:
        id: should be the bundle's folder name. If the two differ, the folder's name is the avatar's id.
        name: the name to show.
        model_type: the model that drives the avatar.
        fps: frames per second of the output video, above 0.
        sample_rate: sample rate of the audio, in Hz, above 0.
        width: width of the output video, in pixels, at least 1.
        height: height of the output video, in pixels, at least 1.
        version: version of the asset.
        metadata: any further values.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(min_length=1)
    name: str | None = None
    model_type: str = Field(min_length=1)
    fps: Number
    sample_rate: Number
    width: PixelCount
    height: PixelCount
    version: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the content of a manifest.json.

        Raises:
            InvalidManifest: the content is no JSON object, or a field is missing or wrong; the message names the field.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"manifest.json has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are read")
        data = data.removeprefix(b"\xef\xbb\xbf")  # Windows editors add a BOM
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise InvalidManifest(_explain(error)) from None
        if b"NaN" in data or b"Infinity" in data:  # pydantic accepts these, but JSON and clients don't
            json.loads(data, parse_constant=_refuse_constant)
        return manifest

    @property
    def is_custom(self) -> bool:
        """Whether POST /avatars/custom created the avatar."""
        return self.metadata.get("custom_avatar") is True

    @property
    def is_hidden(self) -> bool:
        """Whether GET /avatars omits the avatar."""
        return self.metadata.get("hidden") is True

    def summary(self, avatar_id: str) -> AvatarSummary:
        """Return what GET /avatars lists; `avatar_id` is the bundle's folder name."""
        name = self.name.strip() if self.name else ""
        return AvatarSummary(
            avatar_id, name or avatar_id, self.model_type, self.width, self.height,
            self.is_custom and not self.is_hidden,
        )  # fmt: skip

    def to_json(self) -> bytes:
        """Return the content of a manifest.json with these values, unknown keys included.

        Raises:
            InvalidManifest: a number is too large for JSON readers (1e400), or a text can't be encoded as UTF-8.
        """
        try:
            text = json.dumps(self.model_dump(exclude_unset=True), ensure_ascii=False, indent=2, allow_nan=False)
            return text.encode() + b"\n"
        except ValueError as error:
            raise InvalidManifest(f"manifest.json can't be written: {error}") from None


def _explain(error: ValidationError) -> str:
    """Return a sentence that names the first faults with their fields."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False)[:3]:
        where = ".".join(str(part) for part in fault["loc"][:1])
        faults.append(f"{where}: {fault['msg']}" if where else fault["msg"])
    return "manifest.json can't be used: " + "; ".join(dict.fromkeys(faults))
