"""Installs pykcm and its policy module in the virtual machine, by the commands of the documents."""

import re
import sys
from pathlib import Path

from . import machine
from .readme import commands_of

# The project, or what the tests need of it.
_PAYLOAD = Path(__file__).parents[2]

# "pip install", with any options, of the checkout.
_CHECKOUT = re.compile(r"(pip install.*) \.$", re.MULTILINE)

if __name__ == "__main__":
    (wheel,) = _PAYLOAD.glob("wheel/*.whl")
    document = _PAYLOAD / "docs" / "install.md"
    installs = 0
    for commands in (commands_of(document, "A virtual environment")[0], *commands_of(document, "By hand")):
        # The wheel was built of the checkout. Its dependencies are installed, and there is no network.
        offline, number = _CHECKOUT.subn(rf"\1 --no-index {wheel}", commands)
        installs += number
        # The steps by hand do what the last command does, so that they are tested.
        machine.shell(offline.replace("/opt/pykcm/bin/pykcmctl setup --apply\n", ""))
    if not installs:
        sys.exit("install: docs/install.md does not install the checkout")
    for commands in commands_of(_PAYLOAD / "docs" / "selinux.md", "The policy module"):
        machine.shell(commands)
