"""Prints what the image needs of PyPI: pykcm's dependencies, and pytest with its plugins."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
# anyio's plugin knows the option anyio_mode of pyproject.toml.
tools = [wanted for wanted in extras["dev"] if wanted.startswith(("pytest", "anyio"))]
print(*project["dependencies"], *tools, sep="\n")
