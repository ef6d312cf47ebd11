"""Where the tests of images find the packages that the tests of locks make."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lock"))
