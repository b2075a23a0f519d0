"""Prints what the image needs of PyPI: the dependencies of pykcm and of its shared store, and pytest's."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
# anyio's plugin knows the option anyio_mode of pyproject.toml.
tools = [wanted for wanted in extras["dev"] if wanted.startswith(("pytest", "anyio"))]
print(*project["dependencies"], *extras["postgresql"], *tools, sep="\n")
