"""The pictures of a terminal in docs/: they show today's output, and load nothing from elsewhere."""

import html
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pykcm.cli.list_columns import COLUMNS, DEFAULT_COLUMNS
from tests.checkout import make_checkout

from .daemon import ROOT
from .screenshots import SCREENS

KEPT = {name: ROOT / "docs" / f"pykcmctl-{name}.svg" for name in SCREENS}


def lines_of(picture: Path) -> list[str]:
    """The text of each line of the terminal, from top to bottom."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for element in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text"):
        if "clip-path" in element.attrib:
            row = rows.setdefault(float(element.attrib["y"]), [])
            row.append((float(element.attrib["x"]), element.text or ""))
    texts = ["".join(text for _, text in sorted(row)) for _, row in sorted(rows.items())]
    return [text.replace("\xa0", " ").rstrip() for text in texts if text.strip()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a host its own /etc and /run")
@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="the pictures' host has no SELinux")
@pytest.mark.usefixtures("mount_namespaces")
def test_kept_pictures_show_the_output_of_today(tmp_path: Path) -> None:
    """New pictures have the same text as those in docs/; if not, scripts/screenshots makes them again."""
    checkout = make_checkout(tmp_path / "checkout", ["screenshots"], ["pykcm", "tests", "krb5.conf.d"])
    done = subprocess.run(
        [checkout / "scripts/screenshots", tmp_path / "new"],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for kept in KEPT.values():
        assert lines_of(tmp_path / "new" / kept.name) == lines_of(kept)


def test_list_shows_every_default_column() -> None:
    """The picture of list has the headings of the columns that list shows by default."""
    lines = lines_of(KEPT["list"])
    assert lines[0] == "# pykcmctl list"
    assert lines[1].split() == [COLUMNS[name].field.heading for name in DEFAULT_COLUMNS]


@pytest.mark.parametrize("name", SCREENS)
def test_pictures_load_nothing(name: str) -> None:
    """A picture has no address except the name of SVG's own namespace, and loads no font."""
    text = html.unescape(KEPT[name].read_text(encoding="utf-8"))
    assert set(re.findall(r"\w+://[^\s\"')]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "@font-face" not in text
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
