"""Where things are: the checkout, its cache, its environment."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench"
RESULTS = SOURCES / "results.md"
PLOT = ROOT / "docs" / "growth.svg"

# Kept between runs, and ignored by git.
CACHE = ROOT / ".cache" / "bench"

PYKCMD = Path(sys.prefix, "bin", "pykcmd")
