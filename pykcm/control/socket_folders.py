"""The folders above a socket, in which other users may be able to replace it."""

import stat
from collections.abc import Collection
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder_of_others(
    path: str, owners: Collection[int], *, trusts_sticky: bool = True, top: Path = Path("/")
) -> Path | None:
    """The folder, from `top` on, in which others than these UIDs can replace the socket; None: there is none.

    A sticky folder protects a socket that exists, but lets anybody create one that does not. Raises OSError.
    """
    folder = Path(path).parent.resolve(strict=True)
    for each in (folder, *folder.parents):
        if not each.is_relative_to(top):
            break
        status = each.stat()
        is_open = status.st_mode & _OTHERS_WRITE and not (trusts_sticky and status.st_mode & stat.S_ISVTX)
        if is_open or status.st_uid not in owners:
            return each
    return None
