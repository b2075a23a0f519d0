"""The command renew: one's own TGT is renewed now, or a ccache is left out of renewal.

kinit renews the TGT in a temporary ccache, with the user's own libkrb5 and configuration. Then the new TGT is
stored in the place of the old one. `kinit -R` alone would empty the ccache, with its service tickets and the
settings that programs keep in it.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pykcm.ccaches.renewal import SETTING, why_no_renewal
from pykcm.cli.either_socket import kcm_socket_path
from pykcm.cli.names import format_ccache, naming_ccache
from pykcm.cli.output import print_line
from pykcm.cli.parameters import CCacheType
from pykcm.cli.user_collection import connected
from pykcm.client import KcmClient
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import Credential, parse_stored_credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from pykcm.protocol.text import printable
from pykcm.protocol.wire import U32, pack_data

# In seconds: libkrb5 asks each KDC several times before it gives up.
_PATIENCE = 120.0


@click.command("renew")
@click.argument("ccache", type=CCacheType(), required=False)
@click.option("--off", "switch", flag_value="off", help="Do not renew; leave this ccache out from now on.")
@click.option("--on", "switch", flag_value="on", help="Do not renew; undo --off.")
@click.pass_context
def renew_command(context: click.Context, ccache: bytes | None, switch: str | None) -> None:
    """Renew the TGT of one of your ccaches now, with kinit.

    Without CCACHE, it is the default one. Everything else in the ccache stays.
    """
    root = context.find_root()
    path = root.params.get("kcm_path") or kcm_socket_path()
    with connected(path) as kcm:
        name = kcm.get_default_cache() if ccache is None else ccache
        with naming_ccache(name), _named_errors():
            if switch is None:
                renew_tgt(kcm, name)
                print_line(f"renewed {format_ccache(name)}")
            else:
                _set_renewal(kcm, name, is_on=switch == "on")


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except KcmError as error:
        if error.code == Code.FCC_NOFILE:
            raise ControlError(ErrorCode.NOT_FOUND, "there is no such ccache") from None
        raise ControlError(ErrorCode.INTERNAL, error.reason or str(error)) from None


def _set_renewal(kcm: KcmClient, name: bytes, *, is_on: bool) -> None:
    """Write the setting, or remove it."""
    client = kcm.get_principal(name)
    if is_on:
        kcm.remove_cred(name, 0, Tag(server=SETTING))
    else:
        kcm.store(name, _setting(client, b"no"))


def _setting(client: Principal, value: bytes) -> bytes:
    """A configuration entry as libkrb5 writes it: the value is in the place of the ticket."""
    # The enctype, no key; the times, is_skey and flags; no addresses and no authdata.
    empty = bytes(2 + U32.size) + bytes(4 * U32.size + 1 + U32.size) + 2 * U32.pack(0)
    return client.pack() + SETTING.pack() + empty + pack_data(value) + U32.pack(0)


def renew_tgt(kcm: KcmClient, name: bytes) -> None:
    """Renew the TGT; raises ControlError, KcmError."""
    principal = kcm.get_principal(name)
    old = _tgt(kcm, name, principal)
    if old is None:
        raise ControlError(ErrorCode.NOT_FOUND, "there is no TGT in it")
    temporary = kcm.gen_new()
    try:
        kcm.replace(temporary, kcm.get_kdc_offset(name), principal, [old.blob])
        _run_kinit(temporary, format_ccache(name))
        new = _tgt(kcm, temporary, principal)
    finally:
        try:
            kcm.destroy(temporary)
        except KcmError as error:
            if error.code != Code.FCC_NOFILE:
                raise
    reason = "there is none" if new is None else why_no_renewal(old, new)
    if new is None or reason:
        raise ControlError(ErrorCode.INTERNAL, f"kinit has renewed nothing: {reason}")
    try:
        kcm.renew(name, old.blob, new.blob)
    except KcmError as error:
        if error.code == Code.CC_NOTFOUND:
            raise ControlError(ErrorCode.INTERNAL, "its TGT was replaced meanwhile, and stays") from None
        if error.code == Code.FCC_INTERNAL:
            why = "the KCM server is not pykcm, or has to be restarted after an update"
            raise ControlError(ErrorCode.UNSUPPORTED, why) from None
        raise


def _tgt(kcm: KcmClient, name: bytes, principal: Principal) -> Credential | None:
    """The TGT of the principal's realm that ends last."""
    server = Principal(0, principal.realm, (b"krbtgt", principal.realm)).identity
    credentials = map(parse_stored_credential, kcm.get_cred_list(name))
    tgts = [each for each in credentials if each.equality.server == server]
    return max(tgts, key=lambda each: each.endtime, default=None)


def _run_kinit(ccache: bytes, shown_as: str) -> None:
    """Renew the TGT in `ccache`; messages name the ccache `shown_as`."""
    name = b"KCM:" + ccache
    try:
        done = subprocess.run(  # noqa: S603 - the name is one that the server has made
            ["kinit", "-R", "-c", os.fsdecode(name)],  # noqa: S607 - the user's own kinit
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise ControlError(
            ErrorCode.UNSUPPORTED, "kinit: there is no such program; install krb5-user or heimdal-clients"
        ) from None
    except subprocess.TimeoutExpired:
        raise ControlError(
            ErrorCode.INTERNAL,
            f"{shown_as}: kinit did not end within {_PATIENCE:g} s; check that the KDC answers",
        ) from None
    if done.returncode:
        words = printable(done.stderr.decode(errors="replace").strip()) or f"exit status {done.returncode}"
        raise ControlError(
            ErrorCode.INTERNAL, f"{shown_as}: {words}; if that stays, get a new ticket with kinit"
        )


COMMANDS = (renew_command,)
