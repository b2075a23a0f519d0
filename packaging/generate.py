"""Make the files that come from the code: man pages, shell completions, and an example configuration.

usage: generate.py FOLDER

The folder has the form of an installation's share/. Needs Sphinx, and the libraries that pykcmctl imports.
"""

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# By shell: where its completion is found, below share/.
COMPLETIONS = {
    "bash": "bash-completion/completions/pykcmctl",
    "zsh": "zsh/site-functions/_pykcmctl",
    "fish": "fish/vendor_completions.d/pykcmctl.fish",
}

_EXAMPLE_HEAD = """\
# Configuration of pykcmd: /etc/pykcm/pykcm.toml. Further files: /etc/pykcm/conf.d/*.toml.
#
# Every option is here with its default; pykcm.toml(5) explains them. To change one, remove
# the "#" before it. `pykcmctl doctor` checks the file. Changes take effect after
# `systemctl restart pykcm.service`.
"""


def _environment() -> dict[str, str]:
    """Return the environment with the package that is built, and an output that depends on no locale."""
    search = [str(ROOT), str(ROOT / "man"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


def man_pages(folder: Path) -> None:
    """Make share/man."""
    with tempfile.TemporaryDirectory() as doctrees:
        subprocess.run(
            [
                *(sys.executable, "-m", "sphinx", "--builder", "man", "--quiet", "--fail-on-warning"),
                *("--doctree-dir", doctrees, str(ROOT / "man"), str(folder / "man")),
            ],
            check=True,
            env=_environment(),
        )


def completions(folder: Path) -> None:
    """Make the completion of each shell."""
    for shell, place in COMPLETIONS.items():
        command = [sys.executable, "-m", "pykcm.cli.main", "completion", shell]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=_environment()).stdout
        path = folder / place
        path.parent.mkdir(parents=True)
        path.write_bytes(text)


def example(folder: Path) -> None:
    """Make the example configuration from the options in docs/configuration.md."""
    path = folder / "pykcm" / "pykcm.toml"
    path.parent.mkdir(parents=True)
    path.write_text(_EXAMPLE_HEAD + "".join(_options()), encoding="utf-8")


def _options() -> list[str]:
    sys.path[:0] = [str(ROOT), str(ROOT / "man")]
    from reference import documented_options  # noqa: PLC0415

    lines = []
    for name, default, allowed, meaning in documented_options():
        text = textwrap.fill(
            _plain(f"{meaning} Takes {allowed}."), 88, initial_indent="# ", subsequent_indent="# "
        )
        # A default in words is no value: "not set".
        has_value = re.fullmatch(r"`[^`]+`", default)
        setting = f"#{name} = {_plain(default)}" if has_value else f"# {name}: {_plain(default)}"
        lines.append(f"\n{text}\n{setting}\n")
    return lines


def _plain(markdown: str) -> str:
    """The text without the marks of links and code."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    man_pages(target)
    completions(target)
    example(target)
