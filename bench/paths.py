"""Paths of the checkout, its cache and its virtual environment."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench"
RESULTS = SOURCES / "results.md"
PLOT = ROOT / "docs" / "growth.svg"

# It is kept between runs, and git ignores it.
CACHE = ROOT / ".cache" / "bench"

PYKCMD = Path(sys.prefix, "bin", "pykcmd")
