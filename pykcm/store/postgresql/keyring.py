"""The keys of this host: the one that all hosts seal with, and during a rekey the one before it as well.

The database knows the ids of the keys, and which one may seal. A host that has only the old key after a rekey
has begun, or only the new one before it has ended, refuses requests: it cannot know what is stored. The same
holds for a host that does not know the schema, because it was upgraded while the host was running.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pykcm.store.disk import CREDENTIAL, sync_folder
from pykcm.store.interface import StoreError, StoreUnusableError
from pykcm.store.keys import (
    Key,
    is_credential,
    is_replaceable,
    load_key,
    load_next_key,
    next_key_of,
    write_key,
)
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.pipelined_connection import Connection
from pykcm.store.postgresql.schema import VERSION, VERSION_OF_SCHEMA, way_out_of
from pykcm.store.postgresql.sealing import Sealer, SharedKey
from pykcm.store.postgresql.statements import KEYS

log = logging.getLogger(__name__)

# Runs a command with the service's user and credentials.
WITH_CREDENTIALS = (
    "systemd-run --quiet --collect --pipe --wait -p User=pykcm"
    " -p LoadCredentialEncrypted=pykcm.key -p LoadCredentialEncrypted=pykcm.pgpass"
)

# Seconds between two attempts to find the key that other hosts use.
_PAUSE = 1.0


class KeySource(Protocol):
    """The keys of this host, as they are now in its files."""

    def read(self) -> Sequence[SharedKey]:
        """The present key, and the next one if there is one; raises StoreUnusableError."""

    def end_rekey(self) -> None:
        """Put the next key in the place of the present one, which no row is sealed with any more."""

    @property
    def next_place(self) -> Path:
        """The file of the next key."""


class KeyFiles:
    """The systemd credentials `pykcm.key` and `pykcm.key.next`, or `key_file` and the file KEY_FILE.next.

    `is_command`: an administrator's command may read keys that belong to the daemon's user.
    """

    def __init__(self, key_file: Path, *, is_command: bool = False) -> None:
        self._key_file = key_file
        self._is_command = is_command

    def _present(self) -> Key:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not self._key_file.exists() and not (folder and Path(folder, CREDENTIAL).exists()):
            reason = f"there is no key, neither {self._key_file} nor the systemd credential {CREDENTIAL}"
            if self._is_command:
                reason += f" (to run a command with the service's credentials: {WITH_CREDENTIALS} COMMAND)"
            raise StoreUnusableError(
                f"{reason}: give this host the key of the others; for the first one make 32 random bytes, "
                "mode 0600"
            )
        return load_key(self._key_file, may_create=False, any_owner=self._is_command)

    def read(self) -> list[SharedKey]:
        keys = [self._present(), load_next_key(self._key_file, any_owner=self._is_command)]
        return [SharedKey(key.raw) for key in keys if key is not None]

    @property
    def place(self) -> Path:
        """The file of the present key; raises StoreUnusableError."""
        return self._present().source

    @property
    def next_place(self) -> Path:
        return next_key_of(self._key_file)

    @property
    def is_credential(self) -> bool:
        """Whether the present key is a systemd credential; raises StoreUnusableError."""
        return is_credential(self._present())

    def end_rekey(self) -> None:
        present, following = self._present(), load_next_key(self._key_file)
        if following is None:
            return
        if not is_replaceable(present) or following.source.parent != present.source.parent:
            log.warning(
                "the rekey has ended: put the key of %s in the place of %s, and remove %s",
                *(following.source, present.source, following.source),
            )
            return
        try:
            write_key(present.source, following.raw)
            following.source.unlink(missing_ok=True)
            sync_folder(present.source.parent)
        except OSError as error:
            log.error(  # noqa: TRY400
                "the rekey has ended, but %s cannot be replaced by the new key: %s; both keys work",
                *(present.source, error.strerror),
            )
        else:
            log.info("the rekey has ended: %s is the new key now", present.source)


class Keyring:
    """The sealer of a host, which follows what the database says. `source`: None if the keys never change."""

    def __init__(self, database: Database, sealer: Sealer, source: KeySource | None = None) -> None:
        self.sealer = sealer
        self.source = source
        self._database = database
        self._renewal: asyncio.Task[StoreError | None] | None = None
        self._refusal: StoreError | None = None
        self._refused_until = 0.0

    async def renew(self) -> None:
        """Look at the schema and at the key that seals now; raises StoreError if this host may not serve."""
        loop = asyncio.get_running_loop()
        if self._refusal is None or loop.time() >= self._refused_until:
            if self._renewal is None:
                self._renewal = loop.create_task(self._renew())
            refusal = await asyncio.shield(self._renewal)
        else:
            refusal = self._refusal
        if refusal is not None:
            raise StoreError(refusal.reason, refusal.code)

    def refusal(self) -> StoreError:
        """The error of a commit whose key was replaced again and again."""
        return StoreError(f"{self._database.name}: the key {self._key_id} was just replaced", errno.EAGAIN)

    async def _renew(self) -> StoreError | None:
        refusal: StoreError | None = StoreError("interrupted")
        try:
            refusal = await self._look()
        except StoreError as error:
            return error
        finally:
            self._renewal = None
        if refusal is None:
            if self._refusal is not None:
                log.warning("%s: this host has the key %s, and serves", self._database.name, self._key_id)
        elif self._refusal is None or self._refusal.reason != refusal.reason:
            log.error("%s; requests are refused until then", refusal.reason)
        self._refusal = refusal
        self._refused_until = asyncio.get_running_loop().time() + _PAUSE
        return refusal

    @property
    def _key_id(self) -> str:
        return self.sealer.key.id.hex()

    async def _look(self) -> StoreError | None:
        """Raises StoreError if the database cannot say."""
        if (refusal := await schema_refusal(self._database)) is not None:
            return refusal
        registered = await registered_keys(self._database)
        keys: Sequence[SharedKey] = [self.sealer.key]
        if self.source is not None:
            try:
                keys = await asyncio.to_thread(self.source.read)
            except StoreUnusableError as error:
                return StoreError(str(error), errno.EACCES)
        sealing = next((key for key in keys if registered.get(key.id)), None)
        if sealing is None:
            return self._refuse(registered)
        if sealing.id != self.sealer.key.id:
            log.info("%s: rows are sealed with the key %s from now on", self._database.name, sealing.id.hex())
        self.sealer.use(sealing, keys)
        if missing := [key_id for key_id in registered if not self.sealer.has(key_id)]:
            return StoreError(
                f"{self._database.name}: a rekey is under way, and this host has only the new key: give it "
                f"{_names(missing)} as well, until it has ended",
                errno.EACCES,
            )
        if self.source is not None and sealing is not keys[0] and keys[0].id not in registered:
            await asyncio.to_thread(self.source.end_rekey)
        return None

    def _refuse(self, registered: Mapping[bytes, bool]) -> StoreError:
        now = _names([key_id for key_id, may_seal in registered.items() if may_seal])
        place = f" as {self.source.next_place}" if self.source is not None else ""
        if self.sealer.key.id in registered:
            reason = f"this host's key {self._key_id} was replaced by {now}: give it the new key{place}"
        else:
            reason = f"this host's key {self._key_id} is not the other hosts' {now}: give it theirs"
        return StoreError(f"{self._database.name}: {reason}", errno.EACCES)


async def schema_refusal(database: Database) -> StoreError | None:
    """The error of all requests if the schema is not the one that this pykcm knows; raises StoreError."""
    versions = [version for (version,) in await _fetch(database, VERSION_OF_SCHEMA)]
    if versions == [VERSION]:
        return None
    if len(versions) != 1:
        return StoreError(f"{database.name}: the schema's version is missing: restore pykcm.schema")
    [version] = versions
    return StoreError(
        f"{database.name}: the schema has version {version} now, and this pykcm knows {VERSION}: "
        f"{way_out_of(version)}"
    )


async def registered_keys(database: Database) -> dict[bytes, bool]:
    """The ids of the keys that the database knows, and whether each may seal; raises StoreError."""
    return dict(await _fetch(database, KEYS))


async def _fetch(database: Database, statement: str) -> list[Any]:
    async def fetch(connection: Connection) -> list[Any]:
        return await (await connection.execute(statement)).fetchall()

    return await database.repeatable(fetch)


def _names(key_ids: Sequence[bytes]) -> str:
    return ", ".join(key_id.hex() for key_id in key_ids) or "(none)"
