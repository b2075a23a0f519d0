"""The requests renewals and renewed: TGTs that are due go to pykcm-renew, and come back renewed."""

from typing import Annotated

import msgspec

ID_SIZE = 16

# In bytes: the largest frame with the result of a renewal.
LARGEST_RESULT = 1024 * 1024


class RenewalsArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request has no arguments."""


class RenewedArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request has no arguments. Its results follow as frames."""


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an attempt failed; `code` of libkrb5; not `again`: this TGT can never be renewed."""

    reason: str
    code: int = 0
    message: Annotated[str, msgspec.Meta(max_length=512)] = ""
    again: bool = True


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of the attempt `id`: either a credential or a failure."""

    id: Annotated[bytes, msgspec.Meta(min_length=ID_SIZE, max_length=ID_SIZE)]
    credential: bytes | None = None
    failure: Failure | None = None
