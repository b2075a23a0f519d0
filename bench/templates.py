"""States with many ccaches: made once, and kept in the cache for as long as the store's code is the same."""

import hashlib
import os
import shutil
from pathlib import Path

from bench.load import CREDENTIAL_SIZE, Kind, run_load
from bench.paths import CACHE, ROOT
from bench.processes import say
from bench.servers import Pykcm

_FOLDER = CACHE / "templates"


def put_template(server: Pykcm, *, uids: int = 1, ccaches: int = 1, credentials: int = 1) -> None:
    """Give a server that does not run such a state: of this UID and of 1000001, 1000002 …"""
    template = _template(Kind("spread", credentials, ccaches=ccaches, uids=uids), server.folder)
    shutil.rmtree(server.state)
    shutil.copytree(template, server.state)
    server.state.chmod(0o700)
    # Else it would be written while something is timed.
    os.sync()


def _template(kind: Kind, folder: Path) -> Path:
    schema = _schema()
    for outdated in _FOLDER.glob("*"):
        if outdated.name != schema:
            shutil.rmtree(outdated)
    template = _FOLDER / schema / f"{os.geteuid()}-{kind.uids}-{kind.ccaches}-{kind.credentials}"
    if not template.exists():
        ccaches = kind.uids * kind.ccaches
        megabytes = ccaches * kind.credentials * CREDENTIAL_SIZE / 1e6
        if megabytes > 1:
            say(f"making a state of {ccaches:,} ccaches ({megabytes:,.0f} MB)")
        # In the benchmark's folder first: what is in the cache is whole.
        maker = Pykcm("pykcm", folder / "maker", durability="normal")
        with maker.running():
            run_load(maker, kind)
        template.parent.mkdir(parents=True, exist_ok=True)
        unfinished = template.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(maker.state, unfinished)
        unfinished.rename(template)
        shutil.rmtree(maker.folder)
    return template


def _schema() -> str:
    together = hashlib.sha256()
    for source in sorted((ROOT / "pykcm" / "store").glob("*.py")):
        together.update(source.read_bytes())
    return together.hexdigest()[:16]
