"""Convert pictures to sRGB, in which bundles hold them, with littleCMS."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from .icc import Chromaticities, write_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .png import PNGFile

#: White D65, and red, green and blue of sRGB.
_SRGB: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)

_D65 = (0.3127, 0.3290)

#: Primaries by their number in ITU-T H.273.
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}

#: The brightest white of an HDR picture that is shown as white, in cd/m2 (ITU-R BT.2408).
_HDR_WHITE = 203.0

#: A profile changes nothing if no colour moves by more levels than this.
_UNCHANGED_LEVELS = 1

_CURVE_POINTS = 1024


def profile_of_png(png: PNGFile) -> bytes:
    """Return the ICC profile of a PNG's colour space: cICP, else iCCP, else sRGB, else gAMA and cHRM; nothing for sRGB.

    The order is that of the PNG specification, third edition.
    """
    is_grey = png.colour_type in (0, 4)
    if png.cicp is not None and (profile := _profile_of_cicp(png.cicp, is_grey)) is not None:
        return profile
    if png.icc_profile:
        return png.icc_profile
    if png.is_srgb or (png.gamma is None and png.chromaticities is None):
        return b""
    curve = _srgb_curve if png.gamma is None else functools.partial(_gamma_curve, gamma=png.gamma)
    return _profile(curve, None if is_grey else png.chromaticities or _SRGB)


def _profile_of_cicp(cicp: tuple[int, int, int, int], is_grey: bool) -> bytes | None:
    """Return the profile of a colour space of ITU-T H.273, nothing for sRGB; None if it is not known."""
    primaries, transfer, matrix, full_range = cicp
    if matrix != 0 or not full_range or primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    if transfer == 13 and primaries == 1:
        return b""
    return _profile(_TRANSFERS[transfer], None if is_grey else _PRIMARIES[primaries])


def _profile(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]], primaries: Chromaticities | None) -> bytes:
    try:
        return write_profile(curve(np.linspace(0, 1, _CURVE_POINTS)), primaries)
    except ValueError:  # the file's numbers make no sense
        return b""


def _gamma_curve(encoded: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Return the curve of PNG's gAMA for a display of gamma 2.2, as libpng does: 1 / 2.2 means sRGB."""
    return _srgb_curve(_power(encoded, 1 / (gamma * 2.2)))


def _power(encoded: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    return encoded ** min(max(exponent, 0.1), 10.0)


def _srgb_curve(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _bt709_curve(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(encoded < 0.081, encoded / 4.5, ((encoded + 0.099) / 1.099) ** (1 / 0.45))


def _pq_curve(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = encoded ** (1 / m2)
    light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return np.minimum(1.0, light * 10_000 / _HDR_WHITE)


def _hlg_curve(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(encoded <= 0.5, encoded**2 / 3, (np.exp((encoded - c) / a) + b) / 12)
    return np.minimum(1.0, scene**1.2 * 1000 / _HDR_WHITE)


#: Transfer functions, from encoded values to linear light, by their number in ITU-T H.273.
_TRANSFERS: dict[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    **dict.fromkeys((1, 6, 14, 15), _bt709_curve),
    4: functools.partial(_power, exponent=2.2),
    5: functools.partial(_power, exponent=2.8),
    8: functools.partial(_power, exponent=1.0),
    13: _srgb_curve,
    16: _pq_curve,
    18: _hlg_curve,
}


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return `image` (L, RGB or CMYK) as RGB in sRGB.

    Args:
        image: the picture; may be returned itself.
        profile: the ICC profile of its colours, or nothing. A profile that is broken or of another colour space changes
            nothing.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform) or image.convert("RGB")


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from `profile` to sRGB; None if the profile is useless or is sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[mode]:
            return None
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
        samples = _samples(mode)
        before, after = samples.convert("RGB"), ImageCms.applyTransform(samples, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    difference = np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16))
    return None if difference.max() <= _UNCHANGED_LEVELS else transform


def _samples(mode: str) -> Image.Image:
    """Return a picture with colours from all over the colour space."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    channels = np.meshgrid(*[levels] * len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.stack([channel.reshape(1, -1) for channel in channels], axis=-1)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
