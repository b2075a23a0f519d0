"""Access control lists of files, in the format of setfacl."""

import os
from pathlib import Path
from struct import pack

import pytest

_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_READ, _READ_WRITE = 4, 6


def let_read(path: Path, uid: int) -> None:
    """Let another user read the file; the test is skipped if the file system has no such lists."""
    entries = [
        (_OWNER, _READ_WRITE, _NO_ID),
        (_USER, _READ, uid),
        (_GROUP, 0, _NO_ID),
        (_MASK, _READ, _NO_ID),
        (_OTHERS, 0, _NO_ID),
    ]
    try:
        os.setxattr(
            path,
            "system.posix_acl_access",
            pack("<I", _VERSION) + b"".join(pack("<HHI", *entry) for entry in entries),
        )
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
