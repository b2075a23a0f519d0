"""The configuration, read from TOML files and validated; it cannot be changed.

The main file is read first, then `conf.d/*.toml` next to it in the order of their names. If an option appears
more than once, the last value wins. Every mistake is an error that names the file and the option.

A new option needs a line of Config, a section in docs/configuration.md, and an entry in each table of
tests/test_config.py.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

DEFAULT_FILE = Path("/etc/pykcm/pykcm.toml")
DEFAULT_SOCKET = "/run/.heim_org.h5l.kcm-socket"
DEFAULT_CONTROL_SOCKET = "/run/pykcm/control.sock"

# Types of options. A description says which values are valid; messages and pykcm.toml(5) contain it.

_PATH_OF_SOCKET = "an absolute path of at most 107 bytes (the kernel's limit for sockets)"
_PERIOD = 'to 10 years: seconds, or "90s", "10m", "24h", "7d"'

_Count = Annotated[int, Meta(ge=0, description="a whole number from 0 (no limit)")]
_KiB = Annotated[
    int, Meta(ge=0, le=2**40, description="a size in KiB: a whole number from 0 (no limit) to 2^40")
]
_MiB = Annotated[
    int, Meta(ge=0, le=2**30, description="a size in MiB: a whole number from 0 (no limit) to 2^30")
]

# A request must have room for a credential. MIT's client accepts replies of at most 10 MiB.
_RequestKiB = Annotated[int, Meta(ge=64, le=64 * 1024, description="a size in KiB from 64 to 65536")]

# The kernel's limit is 108 bytes including the NUL.
_SocketPath = Annotated[str, Meta(pattern=r"\A/[^\0]+\Z", max_length=107, description=_PATH_OF_SOCKET)]
_SocketPathOrNone = Annotated[
    str,
    Meta(
        pattern=r"\A(/[^\0]+)?\Z",
        max_length=107,
        description='an absolute path of at most 107 bytes, or "" for no control socket',
    ),
]
_AbsolutePath = Annotated[str, Meta(pattern=r"\A/[^\0]*\Z", description="an absolute path")]


_Interval = Annotated[
    float, Meta(ge=0, le=10 * 365 * 86400, description=f"a duration from 0 (never) {_PERIOD}")
]
_Retention = Annotated[
    float,
    Meta(
        ge=0,
        le=10 * 365 * 86400,
        description=f"a duration from 0 (as soon as they have expired) {_PERIOD}",
    ),
]
_StoreName = Annotated[
    Literal["sqlcipher", "memory", "postgresql"],
    Meta(description='"sqlcipher", "memory" or "postgresql"'),
]
_ConnectionString = Annotated[
    str,
    Meta(
        min_length=1, max_length=4096, description='a connection string of libpq, as "host=db1 dbname=pykcm"'
    ),
]
_Grace = Annotated[
    float,
    Meta(ge=0, le=86400, description='a duration from 0 (not at all) to 1 day: seconds, or "90s", "10m"'),
]
_Freshness = Annotated[Literal["strict", "notified"], Meta(description='"strict" or "notified"')]
_Timeout = Annotated[
    float, Meta(ge=0.1, le=300, description='a duration from 0.1 to 300 s: seconds, or "5s"')
]
_Durability = Annotated[Literal["full", "normal"], Meta(description='"full" or "normal"')]
_LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    Meta(description='"debug", "info", "warning" or "error"'),
]
_Share = Annotated[float, Meta(ge=0.05, le=0.95, description="a number from 0.05 to 0.95")]
_Number = Annotated[int, Meta(ge=1, le=1024, description="a whole number from 1 to 1024")]
_RenewalInterval = Annotated[
    float, Meta(ge=0, le=10 * 365 * 86400, description=f"a duration from 0 (as soon as due) {_PERIOD}")
]
_UserName = Annotated[
    str,
    Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_.-]{0,30}\Z", description="the name of a user, of at most 31 bytes"),
]
_Switch = Annotated[bool, Meta(description="true or false")]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file and the option."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every option with its default. Sizes are in KiB, 0 means no limit; durations are in seconds.

    `control_socket_path`: empty means no control socket. None means the default path if `socket_path` is the
    default one, and no control socket otherwise.
    """

    socket_path: _SocketPath = DEFAULT_SOCKET
    control_socket_path: _SocketPathOrNone | None = None
    state_dir: _AbsolutePath = "/var/lib/pykcm"
    store: _StoreName = "sqlcipher"
    key_file: _AbsolutePath | None = None
    durability: _Durability = "full"
    postgresql: _ConnectionString | None = None
    client_keytab: _AbsolutePath | None = None
    freshness: _Freshness = "strict"
    stale_reads: _Grace = 60.0
    store_timeout: _Timeout = 5.0
    log_level: _LogLevel = "info"
    max_ccaches: _Count = 0
    max_uid_ccaches: _Count = 256
    max_ccache_size: _KiB = 4096
    max_uid_size: _KiB = 16384
    max_ccache_credentials: _Count = 2048
    max_uid_credentials: _Count = 8192
    max_request_size: _RequestKiB = 10240
    collection_cache_size: _MiB = 64
    max_connections: _Count = 4096
    max_uid_connections: _Count = 256
    reap_interval: _Interval = 600.0
    expired_retention: _Retention = 86400.0
    root_lists_all: _Switch = False
    tgt_renewal: _Switch = True
    krb5_renew_interval: _RenewalInterval = 0.0
    renew_at: _Share = 0.5
    krb5_auth_timeout: _Timeout = 6.0
    max_renewals: _Number = 32
    max_realm_renewals: _Number = 16
    renewal_user: _UserName = "pykcm-renew"
    audit_socket_path: _SocketPath = "/run/pykcm-audit.sock"
    responder_idle_timeout: _Interval = 300.0


OPTIONS = tuple(field.name for field in msgspec.structs.fields(Config))


def _meta(option: Any) -> Meta:
    """Return the Meta of an option's type, also if the option may be None."""
    for each in (option, *get_args(option)):
        for meta in getattr(each, "__metadata__", ()):
            return meta  # type: ignore[no-any-return]
    raise TypeError(f"{option} has no Meta that describes its valid values")


_TYPES = get_type_hints(Config, include_extras=True)
_DURATIONS = frozenset(
    name
    for name, type_ in _TYPES.items()
    if type_ in {_Interval, _RenewalInterval, _Retention, _Timeout, _Grace}
)

# By option: a description of the valid values.
ALLOWED = {name: _meta(type_).description or "" for name, type_ in _TYPES.items()}

# Options of earlier versions, and what to do instead.
REMOVED = {
    "metrics_listen": (
        "removed: the daemon does not serve HTTP. Delete the option; pykcm-metrics.socket serves the metrics "
        "instead (`systemctl enable --now pykcm-metrics.socket`, see docs/metrics.md)"
    ),
}

_OF_LIBKRB5 = "an option of sssd: kinit and pykcm-renew use krb5.conf. Delete it, and set {} of krb5.conf"
_SSSDS = "an option of sssd that has no meaning here: delete it"
_SSSDS_LOGIN = "an option of sssd for logins: keep it in sssd.conf, and delete it here"
_SSSDS_LOG = 'an option of sssd: use log_level = "debug"'

# Options of sssd.conf that do not exist here, and what to do instead.
OF_SSSD = {
    "tgt_renewal_inherit": (
        "an option of sssd: here no domain has options for renewal. Delete it; tgt_renewal, renew_at, "
        "krb5_renew_interval and krb5_auth_timeout are for all TGTs"
    ),
    "krb5_renewable_lifetime": _OF_LIBKRB5.format("renew_lifetime = 7d in [libdefaults]"),
    "krb5_lifetime": _OF_LIBKRB5.format("ticket_lifetime = 10h in [libdefaults]"),
    "krb5_canonicalize": _OF_LIBKRB5.format("canonicalize = true in [libdefaults]"),
    **dict.fromkeys(
        ("krb5_server", "krb5_backup_server"), _OF_LIBKRB5.format("kdc of the realm in [realms]")
    ),
    "krb5_realm": _OF_LIBKRB5.format("default_realm in [libdefaults]"),
    "krb5_use_kdcinfo": (
        "an option of sssd.conf, where it belongs: pykcm-renew finds the KDCs that SSSD has found. Delete it"
    ),
    "krb5_ccname_template": (
        "an option of sssd: set default_ccache_name = KCM: in [libdefaults] of krb5.conf. Delete it"
    ),
    "krb5_ccachedir": "an option of sssd that KCM: has no use for: delete it",
    **dict.fromkeys(
        (
            *("krb5_validate", "krb5_store_password_if_offline", "krb5_keytab", "krb5_map_user"),
            *("krb5_use_fast", "krb5_fast_principal", "krb5_fast_use_anonymous_pkinit"),
            *("krb5_use_enterprise_principal", "krb5_use_subdomain_realm", "krb5_confd_path"),
            *("krb5_kpasswd", "krb5_backup_kpasswd", "krb5_kdcinfo_lookahead"),
        ),
        _SSSDS_LOGIN,
    ),
    **dict.fromkeys(("debug", "debug_level", "debug_to_files", "debug_backtrace_enabled"), _SSSDS_LOG),
    **dict.fromkeys(("debug_timestamps", "debug_microseconds", "containers_nest_level", "command"), _SSSDS),
    **dict.fromkeys(("config_file_version", "services", "domains"), _SSSDS),
    **dict.fromkeys(("timeout", "offline_timeout", "reconnection_retries"), _SSSDS),
    "ccache_storage": 'an option of sssd: use store = "sqlcipher" or "memory"',
    "client_idle_timeout": (
        "an option of sssd: here an idle connection is closed when max_connections or max_uid_connections is "
        "reached. Delete it"
    ),
    "fd_limit": "an option of sssd: use LimitNOFILE= of pykcm.service",
    "max_secrets": "an option of sssd-secrets: use max_ccaches",
    "max_uid_secrets": "an option of sssd-secrets: use max_uid_ccaches",
    "max_payload_size": "an option of sssd-secrets: use max_ccache_size",
}

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Compiled when an option first needs them.
_NUMBER = r"\s*-?[0-9]+\s*"
_DURATION = r"([0-9]{1,12})([smhd])"


def load_config(file: Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Read the configuration from `file` (the default file may be missing) and the conf.d folder next to it.

    `overrides` are options from the command line by name; None means that an option was not given.
    Raises ConfigError.
    """
    options: dict[str, Any] = {}
    for path in config_files(file):
        options |= _read(path)
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    config = _convert("command line", options | given)
    for message in contradictions(options | given):
        raise ConfigError(message)
    return config


def contradictions(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each option that needs another one."""
    if "client_keytab" in options and "postgresql" not in options:
        yield (
            "option client_keytab: the daemon authenticates with it to the database of option postgresql, "
            "which is missing"
        )
    if options.get("store") == "postgresql" and "postgresql" not in options:
        yield 'option postgresql: it is missing, and store = "postgresql" needs it'


def config_files(file: Path | None = None) -> list[Path]:
    """Return the files that `load_config` reads, in this order; raises ConfigError."""
    main = DEFAULT_FILE if file is None else file
    try:
        files = [main] if file is not None or main.exists() else []
        # Except hidden files, which editors make.
        more = sorted((main.parent / "conf.d").glob("*.toml"))
        return files + [path for path in more if not path.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"{error.filename or main}: {error.strerror}{_reader(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    options = read_toml(path)
    # Each file is validated separately, so that the message can name it.
    return {name: checked_value(str(path), name, value) for name, value in options.items()}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a file without validating them; raises ConfigError."""
    import tomllib  # noqa: PLC0415 - a start without a file does not need it

    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}{_reader(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the file is not TOML: {error}") from error


def checked_value(source: str, name: str, value: Any) -> Any:
    """Return the value of an option, durations in seconds; raises ConfigError."""
    if name in REMOVED:
        raise ConfigError(f"{source}: option {name}: {REMOVED[name]}")
    if name not in OPTIONS and isinstance(value, dict):
        raise ConfigError(
            f"{source}: section [{name}]: there are no sections, as sssd.conf has them; put the options at "
            "the top level, under their names in pykcm.toml(5)"
        )
    if name in OF_SSSD:
        raise ConfigError(f"{source}: option {name}: {OF_SSSD[name]}")
    if name not in OPTIONS:
        raise ConfigError(f"{source}: option {name}: unknown{_suggestion(name)}")
    if name in _DURATIONS:
        value = _duration(source, name, value)
    _convert(source, {name: value})
    return value


def _reader(error: OSError) -> str:
    """Name the user whom the file's permissions refuse."""
    if not isinstance(error, PermissionError):
        return ""
    import pwd  # noqa: PLC0415 - only needed after a mistake

    uid = os.geteuid()
    try:
        return f" for {pwd.getpwuid(uid).pw_name} (UID {uid})"
    except KeyError:
        return f" for UID {uid}"


def _duration(source: str, name: str, value: Any) -> Any:
    """Convert "90s", "10m", "24h" or "7d" to seconds; other values stay as they are."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_DURATION, value)
    if match is None:
        raise _wrong(source, name, value)
    return int(match[1]) * _UNITS[match[2]]


def _convert(source: str, options: dict[str, Any]) -> Config:
    try:
        return msgspec.convert(options, Config)
    except msgspec.ValidationError as error:
        name = str(error).partition(" - at `$.")[2].rstrip("`")
        raise _wrong(source, name, options[name]) from None


def _wrong(source: str, name: str, value: Any) -> ConfigError:
    # A connection string may hold a password.
    text = "this value" if name == "postgresql" else repr(value)
    is_number = isinstance(value, str) and re.fullmatch(_NUMBER, value, re.ASCII) and name != "postgresql"
    hint = f"; a number has no quotes: {value.strip()}" if is_number else ""
    if _TYPES[name] is _Switch and isinstance(value, str) and value.lower() in {"true", "false"}:
        hint = f"; write {value.lower()} without quotes"
    return ConfigError(f"{source}: option {name}: {text} is not {ALLOWED[name]}{hint}")


def _suggestion(name: str) -> str:
    import difflib  # noqa: PLC0415 - only needed after a mistake

    close = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"; did you mean {close[0]}?" if close else "; pykcm.toml(5) describes each option"
