"""The configuration of a realm for tests: krb5.conf, kdc.conf and the KDC's address."""

import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    dns_uri_lookup = false
    qualify_shortname = ""
    rdns = false
    ignore_acceptor_hostname = true
    forwardable = true
    default_keytab_name = FILE:{folder}/services.keytab
    default_client_keytab_name = FILE:{folder}/client.keytab
{more}
[realms]
{realms}
[domain_realm]
    localhost = {realm}
{domains}
"""

_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = {address}
    kdc_tcp_listen = {address}

[realms]
    {realm} = {{
        database_module = db
        key_stash_file = {folder}/database/stash
        acl_file = {folder}/acl
        max_life = 365d
        max_renewable_life = 365d
        supported_enctypes = aes256-cts-hmac-sha1-96:normal
        default_principal_flags = +preauth
    }}

[dbmodules]
    db = {{
        db_library = db2
        database_name = {folder}/database/principal
        disable_last_success = true
        disable_lockout = true
    }}

[logging]
    kdc = FILE:{folder}/kdc.log
    default = FILE:{folder}/kdc.log
"""


def krb5_conf(realm: str, realms: Mapping[str, str], folder: Path, options: Mapping[str, str]) -> str:
    """Return a client's krb5.conf for these KDCs, by realm; `realm` is the default one."""
    return _KRB5_CONF.format(
        realm=realm,
        folder=folder,
        more="".join(f"    {name} = {value}\n" for name, value in options.items()),
        realms="".join(f"    {name} = {{\n        kdc = {each}\n    }}\n" for name, each in realms.items()),
        domains="".join(f"    {dot}{name.lower()} = {name}\n" for name in realms for dot in ("", ".")),
    )


def kdc_conf(realm: str, address: str, folder: Path) -> str:
    """Return the KDC's own configuration."""
    return _KDC_CONF.format(realm=realm, address=address, folder=folder)


def free_address() -> str:
    """Return an address of the loopback network with a port that is free for TCP and UDP.

    The address is random, so that two test runs on one machine do not choose the same port.
    """
    while True:
        host = "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind((host, 0))
            port: int = stream.getsockname()[1]
            try:
                datagram.bind((host, port))
            except OSError:
                continue
            return f"{host}:{port}"


def quoted(text: str) -> str:
    """Quote a word of a query of kadmin; raises ValueError for text that no query can have."""
    if any(character in text for character in "\n\r\0"):
        raise ValueError("a query of kadmin has one line")
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
