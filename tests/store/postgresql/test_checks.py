"""`pykcmctl store`: the schema is made once, and checks say what a daemon lacks."""

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from pykcm import stores
from pykcm.config import Config, load_config
from pykcm.store.postgresql.checks import Finding, findings
from pykcm.store.postgresql.opening import open_store
from pykcm.store.postgresql.sealing import SharedKey
from tests.builders import Clock
from tests.store.postgresql.administrator import ROLE, Administrator, administrator
from tests.store.postgresql.conftest import KEY

__all__ = ["administrator"]


def test_schema_that_init_made_is_complete(administrator: Administrator) -> None:
    """After init every check of the daemons' role is right, and a daemon opens the store."""
    administrator.init()
    done = administrator.run("check")
    assert done.exit_code == 0, done.output
    assert {line.split()[0] for line in done.output.splitlines()} == {"ok", "warning"}
    # The tests' server does not sync.
    assert [line.partition(":")[0] for line in administrator.failures("warning")] == ["fsync"]
    assert f"key: {KEY.id.hex()}, as the other hosts'" in done.output
    open_store(load_config(administrator.config)).close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8"])
@pytest.mark.parametrize("more", ["", " client_encoding=SQL_ASCII"])
def test_settings_are_checked_in_any_encoding(administrator: Administrator, encoding: str, more: str) -> None:
    """The settings are seen in a database without an encoding, which a cluster of locale C has."""
    with psycopg.connect(administrator.admin, dbname="postgres", autocommit=True) as connection:
        connection.execute(b"DROP DATABASE checks WITH (FORCE)")
        connection.execute(
            f"CREATE DATABASE checks ENCODING {encoding} LOCALE 'C' TEMPLATE template0".encode()
        )
    administrator.admin += more
    administrator.configure(administrator.role + more)
    administrator.init()
    assert [line.partition(":")[0] for line in administrator.failures("warning")] == ["fsync"]
    assert f"role: {ROLE}, no superuser" in administrator.run("check").output
    administrator.execute("ALTER DATABASE checks SET default_transaction_read_only = on")
    assert any("it only reads" in line for line in administrator.failures())


def test_sql_makes_the_same_schema_and_connects_nowhere(administrator: Administrator) -> None:
    """The statements of --sql are complete for an administrator, with the GRANTs; nothing is changed."""
    done = administrator.run("init", "--sql", "--role", ROLE)
    assert done.exit_code == 0
    assert administrator.query("SELECT nspname FROM pg_namespace WHERE nspname = 'pykcm'") == []
    administrator.configure("host=/nowhere")
    assert administrator.run("init", "--sql", "--role", ROLE).output == done.output
    administrator.configure(administrator.role)
    administrator.execute(done.output)
    assert administrator.failures() == []


def test_grants_are_minimal(administrator: Administrator) -> None:
    """Each privilege is needed, and the role cannot change the schema or its version."""
    administrator.init()
    for statement in (
        "CREATE TABLE pykcm.more (id integer)",
        "UPDATE pykcm.schema SET version = 2",
        "DELETE FROM pykcm.collections",
        "TRUNCATE pykcm.secrets",
        "DROP TABLE pykcm.keys",
    ):
        with (
            psycopg.connect(administrator.role, autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement.encode())


def test_init_does_not_touch_a_schema_that_is_there(administrator: Administrator) -> None:
    """A second init changes nothing and says so; the keys stay."""
    administrator.init()
    administrator.give(administrator.key_file, bytes(32))
    done = administrator.run("init", "--admin", administrator.admin, "--role", ROLE)
    assert done.exit_code == 1
    assert "there is a schema already" in done.output
    assert administrator.query("SELECT id FROM pykcm.keys") == [(KEY.id,)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--role", "nobody there"], 'there is no role nobody there: CREATE ROLE "nobody there" LOGIN'),
        (["--role", "admin"], "admin is a superuser"),
        ([], "add --role NAME"),
    ],
)
def test_init_never_serves_a_superuser(administrator: Administrator, options: list[str], reason: str) -> None:
    """The daemons' role must be there, and is never a superuser; nothing is made."""
    done = administrator.run("init", "--admin", administrator.admin, *options)
    assert done.exit_code == 1
    assert reason in done.output
    assert administrator.query("SELECT nspname FROM pg_namespace WHERE nspname = 'pykcm'") == []


def test_init_without_privileges_says_what_to_do(administrator: Administrator) -> None:
    """The daemons' role may not make a schema: the message names --admin and --sql."""
    done = administrator.run("init")
    assert done.exit_code == 1
    assert "--admin" in done.output
    assert "--sql" in done.output


@pytest.mark.parametrize(
    ("damage", "subject", "reason"),
    [
        ("DROP SCHEMA pykcm CASCADE", "schema", "there is none; run `pykcmctl store init`"),
        ("UPDATE pykcm.schema SET version = 0", "schema", "run `pykcmctl store upgrade`"),
        ("UPDATE pykcm.schema SET version = 2", "schema", "install the newer pykcm"),
        ("DELETE FROM pykcm.schema", "schema", "its version is missing"),
        (f'REVOKE SELECT ON pykcm.schema FROM "{ROLE}"', "schema", "run the GRANTs"),
        (f'REVOKE USAGE ON SCHEMA pykcm FROM "{ROLE}"', "schema", "run the GRANTs"),
        (f'REVOKE INSERT ON pykcm.commits FROM "{ROLE}"', "privileges", "missing: INSERT on pykcm.commits"),
        (f'REVOKE SELECT ON pykcm.keys FROM "{ROLE}"', "privileges", "missing: SELECT on pykcm.keys"),
        (f'ALTER ROLE "{ROLE}" SUPERUSER', "role", "is a superuser"),
        ("UPDATE pykcm.keys SET may_seal = false", "key", "was replaced by none"),
        ("UPDATE pykcm.keys SET id = '\\x0011223344556677'", "key", "the other hosts have 0011223344556677"),
        ("DELETE FROM pykcm.keys", "key", "pykcm.keys is empty"),
    ],
)
def test_check_and_daemon_refuse(
    administrator: Administrator, damage: str, subject: str, reason: str
) -> None:
    """A schema, privilege, role or key that a daemon cannot work with fails both, with a way out."""
    administrator.init()
    administrator.execute(damage)
    [line] = administrator.failures()
    assert line.startswith(f"{subject}: ")
    assert reason in line
    assert reason in administrator.refusal()


def test_read_only_server_is_a_failure_that_may_pass(administrator: Administrator) -> None:
    """A server that only reads fails the check; a daemon starts, because the server may be promoted."""
    administrator.init()
    administrator.execute("ALTER DATABASE checks SET default_transaction_read_only = on")
    [line] = administrator.failures()
    assert line.startswith("server: it only reads")
    open_store(load_config(administrator.config)).close()


def test_clock_that_is_off_is_a_warning(administrator: Administrator) -> None:
    """A difference to the database's clock of more than 10 s is reported with its size."""
    administrator.init()
    with psycopg.connect(administrator.role, autocommit=True) as connection:

        def check(clock: Callable[[], float]) -> Finding:
            return next(each for each in findings(connection, [KEY.id], clock) if each.subject == "clock")

        assert check(time.time) == Finding("clock", "the database's differs by +0.0 s")
        begun = time.time()
        behind = check(lambda: 0.0)
        assert begun - 1 < float(behind.state.split()[-2]) < time.time() + 1
        assert "synchronize" in behind.way_out
        assert "synchronize" in check(lambda: time.time() + 100).way_out


def test_duration_of_the_checks_is_no_difference_of_clocks(administrator: Administrator) -> None:
    """Over a slow connection all checks together may take longer than clocks may differ."""
    administrator.init()
    clock = Clock(time.time() - 100)
    with psycopg.connect(administrator.role, autocommit=True) as connection:
        for finding in findings(connection, [KEY.id], clock):
            # The database's clock was right all the time.
            clock.now = time.time()
            if finding.subject == "clock":
                assert not finding.way_out


def test_clock_that_agrees_is_believed(
    administrator: Administrator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A new host's clock is in doubt only if the database's shows something else, or cannot be asked."""
    administrator.init()
    with administrator.config.open("a") as config:
        config.write(f'state_dir = "{tmp_path / "state"}"\n')

    def is_believed() -> bool:
        with ExitStack() as at_end:
            _, _, keeper = stores.open_store(load_config(administrator.config), at_end)
            return keeper.clock.is_believed()

    assert is_believed()
    monkeypatch.setattr("pykcm.store.postgresql.opening.time", lambda: time.time() + 100)
    assert not is_believed()


def test_keys_during_a_rekey_are_told_apart(administrator: Administrator) -> None:
    """A host with both keys is right at each step of a rekey; one that lacks a key fails."""
    administrator.init()
    new, following = bytes(range(100, 132)), administrator.key_file.with_name("key.next")
    new_id = SharedKey(new).id.hex()
    administrator.give(following, new)
    assert f"next key: {new_id}: this host is ready" in administrator.run("check").output
    administrator.execute(
        f"UPDATE pykcm.keys SET may_seal = false; INSERT INTO pykcm.keys VALUES ('\\x{new_id}', true)"
    )
    assert administrator.failures() == []
    assert any(line.startswith("rekey: under way") for line in administrator.failures("warning"))
    following.unlink()
    assert any("was replaced by" in line for line in administrator.failures())
    administrator.give(administrator.key_file, new)
    assert any("lacks the old key" in line for line in administrator.failures())
    administrator.execute("DELETE FROM pykcm.keys WHERE NOT may_seal")
    assert administrator.failures() == []


def test_missing_key_is_never_made(administrator: Administrator) -> None:
    """Without a key init, check and the daemon refuse; no file appears."""
    administrator.key_file.unlink()
    for done in (
        administrator.run("init", "--admin", administrator.admin, "--role", ROLE),
        administrator.run("init", "--sql"),
        administrator.run("check"),
    ):
        assert done.exit_code == 1
        assert "there is no key" in done.output
    assert "there is no key" in administrator.refusal()
    assert not administrator.key_file.exists()


@pytest.mark.parametrize("command", ["init", "upgrade"])
def test_administrator_in_another_database_changes_nothing(
    administrator: Administrator, command: str
) -> None:
    """Without dbname an administrator's connection leads to the database of the administrator's own name."""
    admin = psycopg.conninfo.make_conninfo(administrator.admin, dbname="postgres")
    options = ["--role", ROLE] if command == "init" else []
    done = administrator.run(command, "--admin", admin, *options)
    assert (done.exit_code, "add dbname=checks" in done.output) == (1, True)
    with psycopg.connect(admin) as connection:
        rows = connection.execute("SELECT FROM pg_namespace WHERE nspname = 'pykcm'").fetchall()
    assert rows == []


def test_upgrade_of_the_newest_schema_changes_nothing(administrator: Administrator) -> None:
    """Upgrade of the present version says so; other versions, and a missing schema, are refused."""
    done = administrator.run("upgrade", "--admin", administrator.admin)
    assert (done.exit_code, "run `pykcmctl store init`" in done.output) == (1, True)
    administrator.init()
    done = administrator.run("upgrade", "--admin", administrator.admin)
    assert (done.exit_code, "already" in done.output) == (0, True)
    done = administrator.run("upgrade")
    assert (done.exit_code, "--admin" in done.output) == (1, True)
    administrator.execute("UPDATE pykcm.schema SET version = 2")
    done = administrator.run("upgrade", "--admin", administrator.admin)
    assert (done.exit_code, "use the newer pykcm" in done.output) == (1, True)


def test_upgrade_runs_each_step_or_none(
    administrator: Administrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an older version all steps run in one transaction: if one fails, nothing has changed."""
    administrator.init()
    steps = {1: "CREATE TABLE pykcm.second ()", 2: "CREATE TABLE pykcm.third (); SELECT 1 / 0"}
    monkeypatch.setattr("pykcm.store.postgresql.schema.VERSION", 3)
    monkeypatch.setattr("pykcm.store.postgresql.schema._UPGRADES", steps)
    done = administrator.run("upgrade", "--admin", administrator.admin)
    assert done.exit_code == 1
    assert administrator.query("SELECT version, to_regclass('pykcm.second') FROM pykcm.schema") == [(1, None)]
    steps[2] = "CREATE TABLE pykcm.third ()"
    done = administrator.run("upgrade", "--admin", administrator.admin)
    assert (done.exit_code, "from version 1 to 3" in done.output) == (0, True)
    assert administrator.query("SELECT version FROM pykcm.schema") == [(3,)]


def test_database_that_is_away_is_named(administrator: Administrator) -> None:
    """The message names the host and the database, and never the password."""
    administrator.configure("host=/nowhere dbname=tickets password=secret-word")
    done = administrator.run("check")
    assert done.exit_code == 1
    assert "postgresql /nowhere/tickets" in done.output
    assert "secret-word" not in done.output


def test_other_stores_are_refused(administrator: Administrator) -> None:
    """The commands are for the shared store alone."""
    administrator.config.write_text('store = "sqlcipher"\n')
    for command in ("init", "check", "upgrade"):
        done = administrator.run(command)
        assert (done.exit_code, 'set store = "postgresql" first' in done.output) == (1, True)


def test_connection_string_without_its_store_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A host that was meant to share its ccaches says at its start that it does not."""
    with ExitStack() as at_end:
        stores.open_store(Config(store="memory", postgresql="host=db"), at_end)
        assert 'set store = "postgresql"' in caplog.text
        caplog.clear()
        stores.open_store(Config(store="memory"), at_end)
        assert caplog.text == ""


def test_check_as_json(administrator: Administrator) -> None:
    """--json prints each finding as an object."""
    administrator.init()
    found = json.loads(administrator.run("check", "--json").stdout)
    assert found[0] == {"subject": "schema", "state": "version 1", "way_out": "", "is_fatal": False}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_may_check_with_the_daemons_key(administrator: Administrator) -> None:
    """As root the command reads a key that belongs to the daemon's user; the daemon itself would not."""
    administrator.init()
    os.chown(administrator.key_file, 65534, 65534)
    assert administrator.failures() == []
    assert "UID 65534" in administrator.refusal()


def test_incomplete_schema_is_named(administrator: Administrator) -> None:
    """A schema without one of its tables is refused by check and daemon, which both say what is missing."""
    administrator.init()
    administrator.execute("ALTER TABLE pykcm.leases RENAME TO other")
    assert any("without pykcm.leases" in line for line in administrator.failures())
    assert "without pykcm.leases" in administrator.refusal()


def test_column_that_is_missing_is_no_traceback(administrator: Administrator) -> None:
    """An error of a statement refuses the start with its text."""
    administrator.init()
    administrator.execute("ALTER TABLE pykcm.keys DROP COLUMN may_seal")
    assert 'column "may_seal" does not exist' in administrator.run("check").output
    assert 'column "may_seal" does not exist' in administrator.refusal()


def test_missing_lease_is_a_warning(administrator: Administrator) -> None:
    """Without the row of a lease no host does that work: the check says which."""
    administrator.init()
    administrator.execute("DELETE FROM pykcm.leases WHERE name = 'reaper'")
    assert any("no host removes expired ccaches" in line for line in administrator.failures("warning"))


def test_init_of_an_existing_schema_says_so_to_any_role(administrator: Administrator) -> None:
    """A role that may not create a schema is not sent for more privileges where there is one already."""
    administrator.init()
    for options in (["--admin", administrator.admin, "--role", ROLE], []):
        done = administrator.run("init", *options)
        assert (done.exit_code, "there is a schema already" in done.output) == (1, True)
