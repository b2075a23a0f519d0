"""The folders on the way to a socket, and who can put another socket in its place."""

import stat
from collections.abc import Collection
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder_of_others(
    path: str, owners: Collection[int], *, trusts_sticky: bool = True, top: Path = Path("/")
) -> Path | None:
    """The folder, from `top` on, in which others than these UIDs can put another socket in this one's place.

    None: there is none. A sticky folder keeps a socket that is there, but lets anybody make one that is not.
    Raises OSError.
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
