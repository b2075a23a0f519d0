"""Daemon states with many ccaches, made once and kept in the cache until the store's code changes."""

import hashlib
import os
import shutil
from pathlib import Path

from bench.load import CREDENTIAL_SIZE, LoadOptions, run_load
from bench.paths import CACHE, ROOT
from bench.processes import say
from bench.servers import Pykcm

_FOLDER = CACHE / "templates"


def install_template(server: Pykcm, *, uids: int = 1, ccaches: int = 1, credentials: int = 1) -> None:
    """Give a stopped server the ccaches of the calling UID, and of the UIDs 1000001, 1000002 …"""
    template = _template(LoadOptions("spread", credentials, ccaches=ccaches, uids=uids), server.folder)
    shutil.rmtree(server.state)
    shutil.copytree(template, server.state)
    server.state.chmod(0o700)
    # Without it, the kernel would write the files to the disk during the measurement.
    os.sync()


def _template(load: LoadOptions, folder: Path) -> Path:
    schema = _schema()
    for outdated in _FOLDER.glob("*"):
        if outdated.name != schema:
            shutil.rmtree(outdated)
    template = _FOLDER / schema / f"{os.geteuid()}-{load.uids}-{load.ccaches}-{load.credentials}"
    if not template.exists():
        ccaches = load.uids * load.ccaches
        megabytes = ccaches * load.credentials * CREDENTIAL_SIZE / 1e6
        if megabytes > 1:
            say(f"making a state of {ccaches:,} ccaches ({megabytes:,.0f} MB)")
        # It is made in the benchmark's folder first, so that the cache has complete states only.
        maker = Pykcm("pykcm", folder / "maker", durability="normal")
        with maker.running():
            run_load(maker, load)
        template.parent.mkdir(parents=True, exist_ok=True)
        unfinished = template.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(maker.state, unfinished)
        unfinished.rename(template)
        shutil.rmtree(maker.folder)
    return template


def _schema() -> str:
    """Return a digest of the store's code."""
    digest = hashlib.sha256()
    for source in sorted((ROOT / "pykcm" / "store").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
