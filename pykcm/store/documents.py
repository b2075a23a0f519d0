"""The JSON of the secrets: typed, validated, versioned.

Credentials have none: theirs is the client's blob as it came, and their name is their UUID.
"""

from typing import Annotated, Any

import msgspec

from pykcm.protocol.principal import Principal

VERSION = 1


class UnreadableSecretError(Exception):
    """A secret's JSON is not what it should be; the message says how, and holds nothing of the secret."""


class Bytes(msgspec.Struct, frozen=True):
    """Bytes that are no UTF-8, where text is the rule."""

    base64: bytes


Text = str | Bytes


class PrincipalDocument(msgspec.Struct, frozen=True):
    """A principal, as the KCM design page lays it out."""

    type: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    realm: Text
    components: tuple[Text, ...]


class CCacheDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ccache without its credentials; `kdc_offset` in seconds, `label` is its creator's."""

    version: int
    kdc_offset: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
    principal: PrincipalDocument
    label: str | None = None


class DefaultDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The default: a name, because it may name a ccache that does not exist (yet, or any more).

    `own`: the names of those that peers have of their own, by their SELinux range. `destroyed`: whether its
    user has destroyed it, so that no other ccache takes its place; `own_destroyed`: the same by range.
    """

    version: int
    name: Text
    own: dict[str, Text] = {}
    destroyed: bool = False
    own_destroyed: list[str] = []


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
        raise UnreadableSecretError(f"not the JSON it should be: {type(error).__name__}") from None
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
