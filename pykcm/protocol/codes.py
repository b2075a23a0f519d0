"""Reply codes, and the exception that carries them."""

import errno
from enum import IntEnum


class Code(IntEnum):
    """libkrb5's error codes as sent on the wire (com_err table krb5, base -1765328384).

    System errnos are valid codes too: libkrb5 prints EDQUOT as "Disk quota exceeded". MIT's client falls back
    after FCC_INTERNAL, CC_IO and CC_NOSUPP, as it then believes that the server lacks the operation. After a
    refused REPLACE it even empties the ccache. A real failure must therefore never have one of these codes.
    """

    OK = 0
    CC_BADNAME = -1765328245
    CC_NOTFOUND = -1765328243
    CC_END = -1765328242
    CC_IO = -1765328191
    FCC_PERM = -1765328190
    FCC_NOFILE = -1765328189
    FCC_INTERNAL = -1765328188
    CC_FORMAT = -1765328185
    CC_NOSUPP = -1765328137


# Answers of everyday use: the client looked for something that does not exist, or has read all of a list.
EVERYDAY = frozenset({Code.CC_NOTFOUND, Code.CC_END, Code.FCC_NOFILE})


def name_of(code: int) -> str:
    """The code's name for logs and messages: `FCC_NOFILE`, `EDQUOT`, else the number."""
    try:
        return Code(code).name
    except ValueError:
        return errno.errorcode.get(code, str(code))


class KcmError(Exception):
    """A failed operation; the client gets `code`.

    `reason` is for the log and for readers of the exception; it never holds secrets.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = int(code)
        self.reason = reason

    def __str__(self) -> str:
        return f"{name_of(self.code)}: {self.reason}" if self.reason else name_of(self.code)
