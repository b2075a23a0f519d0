"""Prints what the image needs of PyPI: pykcm's dependencies, and pytest."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
tools = [wanted for wanted in extras["dev"] if wanted.startswith("pytest")]
print(*project["dependencies"], *extras["speed"], *tools, sep="\n")
