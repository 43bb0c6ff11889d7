"""From HDR to SDR, with a table of colours.

FFmpeg's own ways don't do: `zscale` is missing in PyAV's wheels, and `scale` computes for 4 seconds before the first
frame.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFilter

#: Transfer functions of HDR, by their numbers in ITU-T H.273.
PQ, HLG = 16, 18

#: The brightness of white paper (ITU-R BT.2408), which becomes SDR's white, and the brightest that is kept apart, in
#: candela per square metre. HLG has its maximum there; PQ may be brighter, and is then white.
_WHITE, _PEAK = 203.0, 1000.0

#: Brightness up to this fraction of white stays as it is; highlights are squeezed into the rest.
_KNEE = 0.5

#: Colours on each edge of the table, the most that Pillow takes. Colours between them are interpolated.
_TABLE_SIZE = 65

_BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_BT2020_LUMA = np.array([0.2627, 0.678, 0.0593])

_Floats = NDArray[np.float64]


@functools.cache
def sdr_filter(transfer: int) -> ImageFilter.Color3DLUT:
    """Return a filter that makes sRGB of a picture with BT.2020's primaries and the transfer function PQ or HLG."""
    steps = np.linspace(0, 1, _TABLE_SIZE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes first
    signal = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    light = (_light_of_pq(signal) if transfer == PQ else _light_of_hlg(signal)) / _WHITE
    light = np.clip(light @ _BT2020_TO_BT709.T, 0, None)
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-9)
    table = _srgb_signal(light * _squeeze(brightest) / brightest)
    return ImageFilter.Color3DLUT(_TABLE_SIZE, table)


def _light_of_pq(signal: _Floats) -> _Floats:
    """Return candela per square metre (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    result: _Floats = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return result


def _light_of_hlg(signal: _Floats) -> _Floats:
    """Return candela per square metre on a screen whose maximum is `_PEAK` (ITU-R BT.2100)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = scene @ _BT2020_LUMA
    result: _Floats = _PEAK * luma[:, None] ** 0.2 * scene
    return result


def _squeeze(light: _Floats) -> _Floats:
    """Return SDR's light, 0 to 1: the curve `mobius` of FFmpeg's filter `tonemap`."""
    peak = _PEAK / _WHITE
    a = -(_KNEE**2) * (peak - 1) / (_KNEE**2 - 2 * _KNEE + peak)
    b = (_KNEE**2 - 2 * _KNEE * peak + peak) / (peak - 1)
    squeezed = (b**2 + 2 * b * _KNEE + _KNEE**2) / (b - a) * (light + a) / (light + b)
    return np.where(light <= _KNEE, light, np.minimum(squeezed, 1))


def _srgb_signal(light: _Floats) -> _Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
