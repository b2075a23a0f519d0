"""The JSON of the secrets: typed, validated, versioned.

Credentials have no JSON: the secret is the blob that the client sent, and its name is the UUID.
"""

from typing import Annotated, Any

import msgspec

from pykcm.protocol.principal import Principal

VERSION = 1


class UnreadableSecretError(Exception):
    """A secret's JSON is invalid; the message says why, and holds nothing of the secret."""


class Bytes(msgspec.Struct, frozen=True):
    """Bytes that are not UTF-8, in place of a text."""

    base64: bytes


Text = str | Bytes


class PrincipalDocument(msgspec.Struct, frozen=True):
    """A principal."""

    type: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    realm: Text
    components: tuple[Text, ...]


class CCacheDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ccache without its credentials; `kdc_offset` in seconds, `label` of the client that created it."""

    version: int
    kdc_offset: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
    principal: PrincipalDocument
    label: str | None = None


class DefaultDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The default ccache: its name, which no ccache needs to have.

    `by_range`: the names of the defaults of single SELinux ranges. `destroyed`: the user has destroyed the
    default, and no other ccache takes its place. `destroyed_ranges`: the ranges whose default is destroyed.
    """

    version: int
    name: Text
    by_range: dict[str, Text] = msgspec.field(default_factory=dict, name="own")
    destroyed: bool = False
    destroyed_ranges: list[str] = msgspec.field(default_factory=list, name="own_destroyed")


encode = msgspec.json.Encoder().encode
_decode_ccache = msgspec.json.Decoder(CCacheDocument).decode
_decode_default = msgspec.json.Decoder(DefaultDocument).decode


def read_ccache(value: bytes) -> CCacheDocument:
    document: CCacheDocument = _read(_decode_ccache, value)
    return document


def read_default(value: bytes) -> DefaultDocument:
    document: DefaultDocument = _read(_decode_default, value)
    return document


def _read(decode: Any, value: bytes) -> Any:
    try:
        document = decode(value)
    # RecursionError: JSON nested deeper than the interpreter's stack.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableSecretError(f"invalid JSON: {type(error).__name__}") from None
    version = getattr(document, "version", VERSION)
    if version != VERSION:
        raise UnreadableSecretError(f"version {version} (only {VERSION} is known)")
    return document


def to_text(value: bytes) -> Text:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return Bytes(value)


def from_text(text: Text) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text.base64


def to_principal_document(principal: Principal) -> PrincipalDocument:
    return PrincipalDocument(
        principal.name_type, to_text(principal.realm), tuple(map(to_text, principal.components))
    )


def from_principal_document(document: PrincipalDocument) -> Principal:
    return Principal(document.type, from_text(document.realm), tuple(map(from_text, document.components)))
