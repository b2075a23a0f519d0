"""Make a kept database: the daemon of another commit stores the ccaches of `contents`.

    .venv/bin/python -m tests.store.sqlcipher.kept.make COMMIT NAME [--killed]

It writes the folder NAME beside this file. With --killed the daemon gets SIGKILL, and the last user's
ccaches are in the write-ahead log. Needs root, because it connects as each UID. Run it once for each folder,
which must not change afterwards.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from pykcm.client import KcmClient
from tests.e2e.daemon import LIMIT, ROOT, effective_uid
from tests.store.sqlcipher.kept.contents import USERS, KeptUser

FOLDER = Path(__file__).parent


def extract(commit: str, folder: Path) -> None:
    """Write the commit's modules to a folder."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "pykcm"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        file.extractall(folder, filter="data")


def prepare(folder: Path) -> None:
    """Write the daemon's configuration, and make its folder."""
    options = {"socket_path": folder / "kcm.sock", "state_dir": folder / "state"}
    if "control_socket_path" in (folder / "pykcm" / "config.py").read_text():
        options["control_socket_path"] = folder / "control.sock"
    (folder / "pykcm.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in options.items()))
    (folder / "state").mkdir(mode=0o700)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the daemon of the extracted modules, and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pykcm", "--config", str(folder / "pykcm.toml")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
    )
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            with KcmClient(folder / "kcm.sock") as kcm:
                kcm.noop()
        except OSError:
            assert process.poll() is None, "the daemon ended"
            assert time.monotonic() < deadline, "the daemon does not answer"
            # Until its socket exists there is nothing to wait for.
            time.sleep(0.01)
        else:
            return process


def store(folder: Path, uid: int, user: KeptUser) -> None:
    with effective_uid(uid), KcmClient(folder / "kcm.sock") as kcm:
        for name, ccache in user.ccaches.items():
            kcm.initialize(name, ccache.principal)
            if ccache.kdc_offset:
                kcm.set_kdc_offset(name, ccache.kdc_offset)
            for credential in ccache.credentials:
                kcm.store(name, credential)
        kcm.set_default_cache(user.default)


def make(commit: str, name: str, *, killed: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="pykcm-kept-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        extract(commit, folder)
        prepare(folder)
        *first, last = USERS.items()
        process = start(folder)
        for uid, user in first:
            store(folder, uid, user)
        process.terminate()
        process.wait(LIMIT)
        process = start(folder)
        store(folder, *last)
        if killed:
            process.kill()
        else:
            process.terminate()
        process.wait(LIMIT)
        target = FOLDER / name
        target.mkdir()
        for path in sorted((folder / "state").iterdir()):
            if path.name == "key" or path.name.startswith("pykcm.db"):
                shutil.copy(path, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("name")
    parser.add_argument("--killed", action="store_true")
    arguments = parser.parse_args()
    make(arguments.commit, arguments.name, killed=arguments.killed)
