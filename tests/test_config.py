"""The configuration: its options, the merging of files, and the messages about mistakes."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pykcm.config import OPTIONS, Config, ConfigError, load_config

DEFAULTS: dict[str, Any] = {
    "socket_path": "/run/.heim_org.h5l.kcm-socket",
    "state_dir": "/var/lib/pykcm",
    "store": "sqlcipher",
    "key_file": None,
    "durability": "full",
    "postgresql": None,
    "client_keytab": None,
    "freshness": "strict",
    "stale_reads": 60,
    "store_timeout": 5,
    "log_level": "info",
    "max_ccaches": 0,
    "max_uid_ccaches": 256,
    "control_socket_path": None,
    "max_ccache_size": 4096,
    "max_uid_size": 16384,
    "max_ccache_credentials": 2048,
    "max_uid_credentials": 8192,
    "max_request_size": 10240,
    "reap_interval": 600,
    "expired_retention": 86400,
    "collection_cache_size": 64,
    "max_connections": 4096,
    "max_uid_connections": 256,
    "root_lists_all": False,
    "tgt_renewal": True,
    "krb5_renew_interval": 0,
    "renew_at": 0.5,
    "krb5_auth_timeout": 6,
    "max_renewals": 32,
    "max_realm_renewals": 16,
    "renewal_user": "pykcm-renew",
    "audit_socket_path": "/run/pykcm-audit.sock",
    "responder_idle_timeout": 300,
}

DOCUMENT = Path(__file__).parents[1] / "docs/configuration.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the main file, which does not exist yet."""
    return tmp_path / "pykcm.toml"


def load(file: Path, text: str) -> Config:
    file.write_text(text)
    return load_config(file)


def refusal(file: Path, text: str | None = None, overrides: dict[str, Any] | None = None) -> str:
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    return str(caught.value)


def conf_d(file: Path, name: str, text: str) -> Path:
    path = file.parent / "conf.d" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def documented() -> set[str]:
    return set(re.findall(r"^### `([a-z0-9_]+)`$", DOCUMENT.read_text(), re.MULTILINE))


def test_every_option_is_in_all_tables() -> None:
    """Each option is in Config, in docs/configuration.md, and in each table of this file."""
    places = {
        "pykcm.config.Config": set(OPTIONS),
        "docs/configuration.md": documented(),
        "DEFAULTS": set(DEFAULTS),
        "VALUES": {option for option, _, _ in VALUES},
        "WRONG_VALUES": {option for option, _ in WRONG_VALUES},
        "HINTS": set(HINTS),
    }
    every = set().union(*places.values())
    missing = {place: sorted(every - options) for place, options in places.items()}
    assert {place: options for place, options in missing.items() if options} == {}


def test_defaults_are_the_documented_ones(file: Path) -> None:
    """Without a file each option has its default."""
    config = load(file, "")
    assert {name: getattr(config, name, None) for name in DEFAULTS} == DEFAULTS


VALUES: list[tuple[str, str, object]] = [
    ("socket_path", '"/tmp/kcm.sock"', "/tmp/kcm.sock"),
    ("socket_path", f'"/{"x" * 106}"', "/" + "x" * 106),
    ("audit_socket_path", '"/tmp/audit.sock"', "/tmp/audit.sock"),
    ("control_socket_path", '"/tmp/control.sock"', "/tmp/control.sock"),
    ("control_socket_path", '""', ""),
    ("state_dir", '"/srv/kcm"', "/srv/kcm"),
    ("store", '"memory"', "memory"),
    ("store", '"sqlcipher"', "sqlcipher"),
    ("store", '"postgresql"\npostgresql = "host=db"', "postgresql"),
    ("postgresql", '"host=db1,db2 dbname=pykcm"', "host=db1,db2 dbname=pykcm"),
    ("postgresql", f'"host={"x" * 4091}"', "host=" + "x" * 4091),
    ("client_keytab", '"/etc/pykcm/pykcm.keytab"\npostgresql = "host=db"', "/etc/pykcm/pykcm.keytab"),
    ("freshness", '"strict"', "strict"),
    ("freshness", '"notified"', "notified"),
    ("stale_reads", "0", 0),
    ("stale_reads", '"1d"', 86400),
    ("store_timeout", "0.1", 0.1),
    ("store_timeout", '"300s"', 300),
    ("key_file", '"/etc/pykcm/key"', "/etc/pykcm/key"),
    ("durability", '"normal"', "normal"),
    *[("log_level", f'"{level}"', level) for level in ("debug", "info", "warning", "error")],
    ("max_ccaches", "0", 0),
    ("max_ccaches", "100_000", 100_000),
    ("max_uid_ccaches", "1", 1),
    ("max_ccache_size", "1", 1),
    ("max_uid_size", "0", 0),
    ("max_ccache_credentials", "1", 1),
    ("max_uid_credentials", "0", 0),
    ("max_request_size", "64", 64),
    ("max_request_size", "65536", 65536),
    ("reap_interval", "0", 0),
    ("reap_interval", '"1h"', 3600),
    ("expired_retention", "0", 0),
    ("expired_retention", '"7d"', 604800),
    ("collection_cache_size", "0", 0),
    ("collection_cache_size", "1000", 1000),
    ("max_connections", "0", 0),
    ("max_connections", "1_000", 1000),
    ("max_uid_connections", "0", 0),
    ("max_uid_connections", "1", 1),
    ("root_lists_all", "true", True),
    ("tgt_renewal", "false", False),
    ("krb5_renew_interval", '"60m"', 3600),
    ("krb5_renew_interval", "0", 0),
    ("renew_at", "0.05", 0.05),
    ("renew_at", "0.95", 0.95),
    ("krb5_auth_timeout", '"15s"', 15),
    ("max_renewals", "1", 1),
    ("max_renewals", "1024", 1024),
    ("max_realm_renewals", "1", 1),
    ("renewal_user", '"_renewer"', "_renewer"),
    ("responder_idle_timeout", "0", 0),
    ("responder_idle_timeout", "1.5", 1.5),
    ("responder_idle_timeout", '"0s"', 0),
    ("responder_idle_timeout", '"90s"', 90),
    ("responder_idle_timeout", '"10m"', 600),
    ("responder_idle_timeout", '"24h"', 86400),
    ("responder_idle_timeout", '"7d"', 604800),
]


@pytest.mark.parametrize(("option", "toml", "value"), VALUES)
def test_valid_values_are_accepted(file: Path, option: str, toml: str, value: object) -> None:
    """Each option accepts its valid values, and the other options keep their defaults."""
    config = load(file, f"{option} = {toml}\n")
    others = {"postgresql": "host=db"} if option == "client_keytab" or value == "postgresql" else {}
    assert config == msgspec.structs.replace(Config(), **{option: value, **others})


HINTS = {
    "socket_path": "absolute path of at most 107 bytes",
    "control_socket_path": 'absolute path of at most 107 bytes, or ""',
    "state_dir": "absolute path",
    "store": '"sqlcipher", "memory" or "postgresql"',
    "postgresql": "a connection string of libpq",
    "client_keytab": "absolute path",
    "freshness": '"strict" or "notified"',
    "stale_reads": "from 0 (not at all) to 1 day",
    "store_timeout": "from 0.1 to 300 s",
    "key_file": "absolute path",
    "durability": '"full" or "normal"',
    "log_level": '"debug", "info", "warning" or "error"',
    "max_ccaches": "whole number from 0",
    "max_uid_ccaches": "whole number from 0",
    "max_ccache_size": "KiB",
    "max_uid_size": "KiB",
    "max_ccache_credentials": "whole number from 0",
    "max_uid_credentials": "whole number from 0",
    "max_request_size": "KiB from 64 to 65536",
    "reap_interval": 'from 0 (never) to 10 years: seconds, or "90s", "10m", "24h"',
    "expired_retention": 'from 0 (as soon as they have expired) to 10 years: seconds, or "90s"',
    "collection_cache_size": "MiB",
    "max_connections": "whole number from 0",
    "max_uid_connections": "whole number from 0",
    "root_lists_all": "true or false",
    "tgt_renewal": "true or false",
    "krb5_renew_interval": 'from 0 (as soon as due) to 10 years: seconds, or "90s"',
    "renew_at": "from 0.05 to 0.95",
    "krb5_auth_timeout": "from 0.1 to 300 s",
    "max_renewals": "whole number from 1 to 1024",
    "max_realm_renewals": "whole number from 1 to 1024",
    "renewal_user": "the name of a user",
    "audit_socket_path": "absolute path of at most 107 bytes",
    "responder_idle_timeout": '"90s", "10m", "24h"',
}


WRONG_VALUES = [
    ("socket_path", "7"),
    ("socket_path", '""'),
    ("socket_path", '"kcm.sock"'),
    ("socket_path", '"/"'),
    ("socket_path", '"/a\\u0000b"'),
    ("socket_path", f'"/{"x" * 107}"'),
    ("audit_socket_path", '"audit.sock"'),
    ("audit_socket_path", '""'),
    ("audit_socket_path", f'"/{"x" * 107}"'),
    ("control_socket_path", '"control.sock"'),
    ("control_socket_path", '"/"'),
    ("control_socket_path", "false"),
    ("control_socket_path", f'"/{"x" * 107}"'),
    ("state_dir", '"state"'),
    ("state_dir", "false"),
    ("state_dir", '"/a\\u0000b"'),
    ("postgresql", '""'),
    ("postgresql", "5432"),
    ("postgresql", f'"host={"x" * 4092}"'),
    ("client_keytab", '"pykcm.keytab"'),
    ("client_keytab", "true"),
    ("freshness", '"eventual"'),
    ("freshness", "1"),
    ("stale_reads", "-1"),
    ("stale_reads", '"2d"'),
    ("stale_reads", "true"),
    ("store_timeout", "0"),
    ("store_timeout", "301"),
    ("store_timeout", '"never"'),
    ("store", '"SQLCipher"'),
    ("store", "1"),
    ("key_file", '"key"'),
    ("key_file", "32"),
    ("durability", '"none"'),
    ("durability", "true"),
    ("log_level", '"verbose"'),
    ("log_level", "0"),
    ("max_ccaches", "-1"),
    ("max_ccaches", "true"),
    ("max_ccaches", '"10"'),
    ("max_ccaches", "1.5"),
    ("max_uid_ccaches", "-1"),
    ("max_uid_ccaches", "[64]"),
    ("max_uid_ccaches", "false"),
    ("max_ccache_size", "-1"),
    ("max_ccache_size", '"4M"'),
    ("max_ccache_size", "9_000_000_000_000_000_000"),
    ("max_uid_size", "1e3"),
    ("max_uid_size", "true"),
    ("max_ccache_credentials", "-1"),
    ("max_uid_credentials", "1.5"),
    ("max_request_size", "0"),
    ("max_request_size", "63"),
    ("max_request_size", "65537"),
    ("max_request_size", "true"),
    ("reap_interval", "-1"),
    ("reap_interval", '"often"'),
    ("reap_interval", f'"{"9" * 5000}s"'),
    ("expired_retention", "-1"),
    ("expired_retention", "true"),
    ("expired_retention", '"1 day"'),
    ("expired_retention", '"11000d"'),
    ("collection_cache_size", "-1"),
    ("collection_cache_size", '"64 MiB"'),
    ("max_connections", "-1"),
    ("max_connections", "1.5"),
    ("max_uid_connections", "-1"),
    ("max_uid_connections", '"256"'),
    ("root_lists_all", "1"),
    ("root_lists_all", '"yes"'),
    ("tgt_renewal", "1"),
    ("krb5_renew_interval", "-1"),
    ("krb5_renew_interval", '"half"'),
    ("renew_at", "0"),
    ("renew_at", "1"),
    ("renew_at", '"0.5"'),
    ("krb5_auth_timeout", "0"),
    ("krb5_auth_timeout", "301"),
    ("max_renewals", "0"),
    ("max_renewals", "1025"),
    ("max_realm_renewals", "0"),
    ("max_realm_renewals", "1.5"),
    ("renewal_user", '""'),
    ("renewal_user", '"-root"'),
    ("renewal_user", "900"),
    ("responder_idle_timeout", "-1"),
    ("responder_idle_timeout", "true"),
    ("responder_idle_timeout", "nan"),
    ("responder_idle_timeout", "inf"),
    ("responder_idle_timeout", "[300]"),
    ("responder_idle_timeout", "2026-11-21"),
    *[
        ("responder_idle_timeout", f'"{text}"')
        for text in ("", "300", "5 m", "-5m", "5M", "1h30m", "m", "1.5h", "5ms", "\u0665s", "5s\\n")
    ],
    ("responder_idle_timeout", '"99999999999999d"'),
]


@pytest.mark.parametrize(("option", "toml"), WRONG_VALUES)
def test_wrong_values_are_refused(file: Path, option: str, toml: str) -> None:
    """The message about a wrong value is one line with the file, the option and the valid values."""
    message = refusal(file, f"{option} = {toml}\n")
    assert str(file) in message
    assert f"option {option}:" in message
    assert HINTS[option] in message
    assert len(message.splitlines()) == 1


def test_client_keytab_needs_a_database(file: Path) -> None:
    """A keytab is for the database's authentication; without a database it is a mistake."""
    assert "option client_keytab:" in refusal(file, 'client_keytab = "/etc/pykcm.keytab"\n')
    config = load(file, 'client_keytab = "/etc/pykcm.keytab"\npostgresql = "host=db"\n')
    assert config.client_keytab == "/etc/pykcm.keytab"


def test_message_about_a_connection_string_does_not_show_it(file: Path) -> None:
    """A connection string may hold a password."""
    assert "s3cret" not in refusal(file, f'postgresql = "password=s3cret {"x" * 5000}"\n')
    assert "s3cret" not in refusal(file, 'postgresql = ["password=s3cret"]\n')


@pytest.mark.parametrize(
    ("option", "suggestion"),
    [
        ("max_uid_ccache", "max_uid_ccaches"),
        ("max-ccaches", "max_ccaches"),
        ("socketpath", "socket_path"),
        ("Store", "store"),
        ("responder_timeout", "responder_idle_timeout"),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(file: Path, option: str, suggestion: str) -> None:
    """The message about an unknown option names the file, the option and the most similar option."""
    message = refusal(file, f"{option} = 1\n")
    assert str(file) in message
    assert option in message
    assert suggestion in message


@pytest.mark.parametrize("value", ['""', '"unix:/run/m.sock"', '"127.0.0.1:9464"', "false"])
def test_removed_option_is_refused_with_the_alternative(file: Path, value: str) -> None:
    """The message about a removed option is one line with the file, the option and its replacement."""
    message = refusal(file, f"max_ccaches = 7\nmetrics_listen = {value}\n")
    assert message.startswith(f"{file}: option metrics_listen: removed")
    assert "systemctl enable --now pykcm-metrics.socket" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("text", ["xyzzy = 1", "[kcm]\nmax_ccaches = 1", "[[store]]", "a.b = 1", '"" = 1'])
def test_unknown_option_without_a_similar_one_is_refused(file: Path, text: str) -> None:
    """Options are at the top level; the message about any other name has the file and the name."""
    message = refusal(file, text)
    assert str(file) in message
    assert "option" in message


def test_same_one_of_several_mistakes_is_reported(file: Path) -> None:
    """If there are several mistakes, each start reports the same one."""
    text = "max_ccaches = -1\nstore = 7\nmax_uid_size = true\n"
    assert len({refusal(file, text) for _ in range(5)}) == 1


def test_configuration_is_immutable() -> None:
    """Options cannot be changed."""
    with pytest.raises(AttributeError):
        Config().store = "memory"  # type: ignore[misc]
