"""Unpack bundled wheels into a package's private folder, with their licences and a list of them (CycloneDX).

usage: bundle.py ROOT PACKAGE [WHEEL|SDIST...]

ROOT is the folder with the files of the package. An sdist is built by the package's build, and is only
listed here. It needs only Python's library.
"""

import email
import hashlib
import json
import shutil
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

PRIVATE = "usr/lib/pykcm"


def unpack_wheel(wheel: Path, private: Path, licences: Path) -> Message:
    """Unpack the modules, and the licences into a folder of the distribution's name; return the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
        for name in names:
            if name.endswith("/"):
                continue
            if ".dist-info/" not in name:
                archive.extract(name, private)
            elif is_licence(name):
                copy(archive.read(name), licences / metadata["Name"] / Path(name).name)
    return metadata


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


def is_licence(name: str) -> bool:
    return Path(name).name.lower().startswith(("license", "licence", "copying", "notice", "authors"))


def copy(data: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def component(path: Path, metadata: Message) -> dict[str, Any]:
    name, version = metadata["Name"], metadata["Version"]
    # Newer metadata has an SPDX expression, older one a text.
    expression = metadata["License-Expression"]
    licence = {"expression": expression} if expression else {"license": {"name": licence_name(metadata)}}
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name.lower()}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower()}@{version}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "licenses": [licence],
        "properties": [{"name": "file", "value": path.name}],
    }


def licence_name(metadata: Message) -> str:
    classifiers = [
        each for each in metadata.get_all("Classifier", []) if each.startswith("License :: OSI Approved :: ")
    ]
    text = classifiers[0].rpartition(" :: ")[2] if classifiers else metadata["License"]
    return str(text or "see the folder bundled").splitlines()[0]


def main(folder: str, package: str, *files: str) -> None:
    """Add the files to a package."""
    if not files:
        return
    root = Path(folder)
    documents = root / "usr/share/doc" / package
    licences = documents / "bundled"
    components = []
    for path in sorted(map(Path, files)):
        is_wheel = path.suffix == ".whl"
        metadata = unpack_wheel(path, root / PRIVATE, licences) if is_wheel else list_sdist(path, licences)
        if not (licences / metadata["Name"]).exists():
            sys.exit(f"bundle: {path.name} has no licence")
        components.append(component(path, metadata))
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
    main(*sys.argv[1:])
