"""Pictures, compared as a person would who holds one beside the other.

Both are laid on white and made small (32 by 24 points, each the mean of what it covers), so that another font, another
resolution or smoothing weigh little. What stands out from the background is the ink; the distance is the share of the
ink that is not in the same place: 0 for the same picture, 1 for two that share nothing. Measured on plots: another
font 0.01, another resolution 0.09; a curve moved by a sixtieth of its period 0.15, other random points 0.68.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import TYPE_CHECKING

from mlvm.errors import MlvmError
from mlvm.reproduce.document import IDENTICAL, Likeness, Tolerance

if TYPE_CHECKING:
    from PIL.Image import Image

#: Points that pictures are made small to.
WIDTH, HEIGHT = 32, 24
#: No picture in a notebook is larger; what claims to be is meant to fill memory.
MOST_POINTS = 100_000_000
#: Pictures whose widths and heights are in relations further apart are not the same.
ASPECT = 1.1


def compare(stored: str, now: str, tolerance: Tolerance) -> Likeness:
    """Compare two pictures in base64."""
    before, after = "".join(stored.split()), "".join(now.split())
    if before == after:
        return IDENTICAL
    if tolerance.strict:
        return Likeness(same=False, why="other bytes")
    mine, theirs = _opened(before), _opened(after)
    if mine is None or theirs is None:
        return Likeness(same=False, why="other bytes, and not a picture that can be read")
    return _seen(mine, theirs, tolerance)


def _seen(mine: Image, theirs: Image, tolerance: Tolerance) -> Likeness:
    if mine.size == theirs.size and mine.tobytes() == theirs.tobytes():
        return Likeness(same=True, reasons=("how a picture is written",))
    shapes = f"{mine.width} x {mine.height} points are now {theirs.width} x {theirs.height}"
    relation = (mine.width / mine.height) / (theirs.width / theirs.height)
    if not 1 / ASPECT <= relation <= ASPECT:
        return Likeness(same=False, why=f"{shapes}, which is another shape")
    found = distance(mine, theirs)
    said = f"{found:.3f}" + ("" if mine.size == theirs.size else f", {shapes}")
    if found <= tolerance.picture:
        return Likeness(same=True, reasons=(f"looks of pictures (distance {said})",))
    return Likeness(same=False, why=f"another picture: distance {said}")


def distance(mine: Image, theirs: Image) -> float:
    """Return how far two pictures are apart, from 0 to 1."""
    before, after = _small(mine), _small(theirs)
    ground = [sorted(before[channel::3])[len(before) // 6] for channel in range(3)]
    apart = ink = 0
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        apart += abs(one - other)
        ink += max(abs(one - ground[index % 3]), abs(other - ground[index % 3]))
    return min(1.0, apart / ink) if ink else 0.0


def _opened(encoded: str) -> Image | None:
    try:
        from PIL import Image  # noqa: PLC0415  (an extra: who compares no pictures need not have it)
    except ImportError:
        raise MlvmError(
            "comparing pictures needs Pillow, which is not installed", hint="pip install 'mlvm[reproduce]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
            if found.width * found.height > MOST_POINTS or not found.width or not found.height:
                return None
            return found.convert("RGBA")
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        return None


def _small(picture: Image) -> bytes:
    from PIL import Image  # noqa: PLC0415

    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX).tobytes()
