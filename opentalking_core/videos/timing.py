"""A constant frame rate out of whatever times a video's frames have."""

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Frame = TypeVar("Frame")

#: Frames per second that a bundle may have. Rates outside are resampled to the nearer bound.
MIN_RATE, MAX_RATE = 1, 120

#: The rate of a video that says nothing of its times: a single frame, for example.
_DEFAULT_RATE = Fraction(25)

#: Rates that cameras and editors use: whole ones, and those of NTSC.
_USUAL_RATES = sorted(
    {Fraction(rate) for rate in range(MIN_RATE, MAX_RATE + 1)}
    | {Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120)}
)

#: How far a rate may be from a usual rate that it means, as a fraction.
_SNAP_TOLERANCE = 0.005

#: How far the average rate and the rate that a file says may be apart if the rate is constant, as a fraction.
_CONSTANT_TOLERANCE = 0.01

#: A longer pause between two frames is a break in the numbering, not a picture that stands still.
_MAX_PAUSE_SECONDS = 10


def constant_rate(average: Fraction | None, base: Fraction | None) -> Fraction | None:
    """Return the rate of a video with a constant one, by what its file says, or None.

    Args:
        average: frames by duration.
        base: the lowest rate that has a place for each of the first frames.
    """
    if not average or not base or not MIN_RATE <= average <= MAX_RATE:
        return None
    return usual_rate(average) if abs(average - base) <= base * _CONSTANT_TOLERANCE else None


def measured_rate(times: Sequence[Fraction]) -> Fraction:
    """Return the nominal rate of a video with a variable one, by the times of its first frames in seconds."""
    ordered = sorted(times)
    steps = [later - earlier for earlier, later in itertools.pairwise(ordered) if later > earlier]
    if not steps:
        return _DEFAULT_RATE
    middle = statistics.median(steps)
    # The mean of steps near the median: times are often rounded to milliseconds.
    usual = [step for step in steps if abs(step - middle) <= middle / 4]
    return usual_rate(1 / statistics.mean(usual or steps))


def usual_rate(rate: Fraction) -> Fraction:
    """Return the usual rate that `rate` means, or `rate` within the bounds."""
    bounded = min(max(rate, Fraction(MIN_RATE)), Fraction(MAX_RATE))
    nearest = min(_USUAL_RATES, key=lambda usual: abs(usual - bounded))
    return nearest if abs(nearest - bounded) <= bounded * _SNAP_TOLERANCE else bounded.limit_denominator(1001)


def resample(frames: Iterable[tuple[Fraction | None, Frame]], rate: Fraction) -> Iterator[tuple[int, Frame]]:
    """Yield a frame for each tick of a constant rate: the index of the tick, and the frame.

    A frame that comes late is preceded by repetitions of the frame before; a second frame for a tick is dropped.

    Args:
        frames: times in seconds and frames, in the order in which they are shown. A time may be missing.
        rate: in frames per second.
    """
    next_tick, previous = 0, None
    for seconds, frame in _steady(frames, 1 / rate):
        tick = math.floor(seconds * rate + Fraction(1, 2))
        while previous is not None and next_tick < tick:
            yield next_tick, previous
            next_tick += 1
        if tick == next_tick:
            yield tick, frame
            next_tick, previous = tick + 1, frame


def _steady(frames: Iterable[tuple[Fraction | None, Frame]], step: Fraction) -> Iterator[tuple[Fraction, Frame]]:
    """Yield times that begin at 0 and grow, and the frames. Missing and senseless times are `step` after the last."""
    seconds, last = -step, None
    for time, frame in frames:
        pause = step if time is None or last is None else time - last
        seconds += pause if 0 < pause <= _MAX_PAUSE_SECONDS else step
        last = time if time is not None else (None if last is None else last + step)
        yield seconds, frame
