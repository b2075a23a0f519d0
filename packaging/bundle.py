"""Unpack bundled wheels into a package's private folder, with their licences and a list of them (CycloneDX).

usage: bundle.py [--amalgamation SQLITE3.C] ROOT PACKAGE [WHEEL|SDIST...]

ROOT is the folder with the files of the package. An sdist is built by the package's build, and is only
listed here. With --amalgamation, SQLCipher and SQLite were compiled into it from that file. It needs only
Python's library.
"""

import argparse
import email
import hashlib
import json
import re
import shutil
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

PRIVATE = "usr/lib/pykcm"

# SPDX's names of licences that older metadata has as a text or not at all.
_LICENCES = {"sqlcipher3": "Zlib", "krb5": "MIT"}

# The fields that the SBOM takes over from the components in a wheel's own list.
_KEPT = ("type", "name", "version", "purl", "hashes", "licenses")

Component = dict[str, Any]


def unpack_wheel(wheel: Path, private: Path, licences: Path) -> tuple[Message, list[Component]]:
    """Unpack the modules, and the licences into a folder of the distribution's name.

    Returns the metadata, and the libraries that the wheel's own lists name.
    """
    parts: list[Component] = []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
        for name in names:
            if name.endswith("/"):
                continue
            if ".dist-info/" not in name:
                archive.extract(name, private)
            elif ".dist-info/sboms/" in name:
                parts += json.loads(archive.read(name)).get("components", [])
            elif is_licence(name):
                copy(archive.read(name), licences / metadata["Name"] / Path(name).name)
    own = normalized(metadata["Name"])
    return metadata, [
        {key: each[key] for key in _KEPT if key in each} for each in parts if normalized(each["name"]) != own
    ]


def list_sdist(sdist: Path, licences: Path) -> Message:
    """Copy the licences; return the metadata."""
    with tarfile.open(sdist) as archive:
        top = archive.getnames()[0].split("/")[0]
        metadata = email.message_from_bytes(read(archive, f"{top}/PKG-INFO"))
        for name in archive.getnames():
            if name.count("/") == 1 and is_licence(name):
                copy(read(archive, name), licences / metadata["Name"] / Path(name).name)
    return metadata


def read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        sys.exit(f"bundle: {name} is no file")
    return file.read()


def list_amalgamation(source: Path, licences: Path) -> list[Component]:
    """The components SQLCipher and SQLite of one C file; SQLCipher's licence is copied from it."""
    text = source.read_text(encoding="utf-8", errors="replace")
    sqlite = re.search(r'^#define SQLITE_VERSION +"([\d.]+)"', text, re.MULTILINE)
    sqlcipher = re.search(r"^#define CIPHER_VERSION_NUMBER ([\d.]+)", text, re.MULTILINE)
    licence = re.search(r"^\*\* Copyright.*ZETETIC.*\n(?:\*\*.*\n)+", text, re.MULTILINE | re.IGNORECASE)
    if sqlite is None or sqlcipher is None or licence is None:
        sys.exit(f"bundle: {source} is no SQLCipher")
    copy(re.sub(r"(?m)^\*\* ?", "", licence[0]).encode(), licences / "SQLCipher" / "LICENSE")
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:generic/{name.lower()}@{found[1]}",
            "name": name,
            "version": found[1],
            "purl": f"pkg:generic/{name.lower()}@{found[1]}",
            "licenses": [{"license": {"id": spdx}}],
        }
        for name, found, spdx in (("SQLCipher", sqlcipher, "BSD-3-Clause"), ("SQLite", sqlite, "blessing"))
    ]


def is_licence(name: str) -> bool:
    return Path(name).name.lower().startswith(("license", "licence", "copying", "notice", "authors"))


def copy(data: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def component(path: Path, metadata: Message, parts: list[Component]) -> Component:
    name, version = metadata["Name"], metadata["Version"]
    # Newer metadata has an SPDX expression, older one a text.
    expression = metadata["License-Expression"] or _LICENCES.get(normalized(name))
    licence = {"expression": expression} if expression else {"license": {"name": licence_name(metadata)}}
    url = f"pkg:pypi/{normalized(name)}@{version}"
    nested = [{**each, "bom-ref": f"{url}#{each.get('purl', each['name'])}"} for each in parts]
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "licenses": [licence],
        "properties": [{"name": "file", "value": path.name}],
        **({"components": nested} if nested else {}),
    }


def licence_name(metadata: Message) -> str:
    classifiers = [
        each for each in metadata.get_all("Classifier", []) if each.startswith("License :: OSI Approved :: ")
    ]
    text = metadata["License"] or (classifiers[0].rpartition(" :: ")[2] if classifiers else "")
    return str(text or "see the folder bundled").splitlines()[0]


def main(root: Path, package: str, files: list[Path], amalgamation: Path | None) -> None:
    """Add the files to a package."""
    documents = root / "usr/share/doc" / package
    licences = documents / "bundled"
    components = []
    for path in sorted(files):
        parts: list[Component] = []
        if path.suffix == ".whl":
            metadata, parts = unpack_wheel(path, root / PRIVATE, licences)
        else:
            metadata = list_sdist(path, licences)
        if not (licences / metadata["Name"]).exists():
            sys.exit(f"bundle: {path.name} has no licence")
        components.append(component(path, metadata, parts))
    if amalgamation is not None:
        components += list_amalgamation(amalgamation, licences)
    if not components:
        return
    shutil.rmtree(root / PRIVATE / "bin", ignore_errors=True)
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": package}},
        "components": components,
    }
    documents.mkdir(parents=True, exist_ok=True)
    (documents / "sbom.cdx.json").write_text(json.dumps(sbom, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("package")
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--amalgamation", type=Path)
    main(**vars(parser.parse_args()))
