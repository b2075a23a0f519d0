"""Ccaches to export, and the results of an import."""

import json
from pathlib import Path

import pyrage

from pykcm.client import KcmClient
from tests.builders import ALICE, TGS, credential_bytes, service

from .control import Pykcmctl
from .daemon import Pykcmd, effective_uid


class AgeKey:
    """An age key: its public key, and a file with the secret key."""

    def __init__(self, folder: Path) -> None:
        key = pyrage.x25519.Identity.generate()
        self.recipient = str(key.to_public())
        self.path = folder / "identity"
        self.path.touch(0o600)
        self.path.write_text(f"# public key: {self.recipient}\n{key}\n")


def fill(daemon: Pykcmd, uid: int, *names: bytes) -> None:
    """Give the UID ccaches with these names, each with alice's TGT and a service ticket."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        for name in names:
            tickets = [
                credential_bytes(server, ticket=name + b" " * 500) for server in (TGS, service(len(name)))
            ]
            kcm.replace(name, 7, ALICE, tickets)


def contents(daemon: Pykcmd, uid: int) -> list[tuple[bytes, object, int, list[bytes]]]:
    """All ccaches of the UID, in the order of the list."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        names = [kcm.get_cache_by_uuid(uuid) for uuid in kcm.get_cache_uuid_list()]
        return [
            (name, kcm.get_principal(name), kcm.get_kdc_offset(name), kcm.get_cred_list(name))
            for name in names
        ]


def default_of(daemon: Pykcmd, uid: int) -> bytes:
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        return kcm.get_default_cache()


def results(ctl: Pykcmctl, *arguments: str) -> list[tuple[str, str]]:
    """The result and ccache of each object that `import --json` or `migrate --json` prints."""
    return [(each["result"], each["name"]) for each in json.loads(ctl.run(*arguments, "--json").output)]
