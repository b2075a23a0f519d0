"""Prints what the image needs of PyPI: for pykcm, its shared store and pytest; or an extra of pykcm."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
# anyio's plugin knows the option anyio_mode of pyproject.toml.
tools = [wanted for wanted in extras["dev"] if wanted.startswith(("pytest", "anyio"))]
needed = [*project["dependencies"], *extras["postgresql"], *tools]
print(*(extras[sys.argv[1]] if sys.argv[1:] else needed), sep="\n")
