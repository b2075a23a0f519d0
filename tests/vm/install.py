"""Installs pykcm and its policy module in the virtual machine, by the commands of the documents."""

from pathlib import Path

from . import machine
from .readme import commands_of

# The project, or what the tests need of it.
_PAYLOAD = Path(__file__).parents[2]

if __name__ == "__main__":
    (wheel,) = _PAYLOAD.glob("wheel/*.whl")
    for commands in commands_of(_PAYLOAD / "README.md", "Installing"):
        # What was built of the checkout; its dependencies are there already, and there is no network.
        machine.shell(commands.replace("'.[", f"--no-index '{wheel}["))
    for commands in commands_of(_PAYLOAD / "docs" / "selinux.md", "The policy module"):
        machine.shell(commands)
