"""Prints what the image needs of PyPI.

usage: requirements.py pykcm|tests
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
# anyio's plugin knows the option anyio_mode of pyproject.toml.
tools = [each for each in project["optional-dependencies"]["dev"] if each.startswith(("pytest", "anyio"))]
print(*(tools if sys.argv[1] == "tests" else project["dependencies"]), sep="\n")
