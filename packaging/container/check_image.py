"""Import every compiled module of the image: one without its libraries fails the build."""

import importlib
import sys
from pathlib import Path

import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
import psycopg
import pyrage
from sqlcipher3 import dbapi2

import selinux

# They have compiled parts of their own, which these imports load.
_LOADED = (dbapi2, psycopg.pq, pyrage, selinux)

_STANDARD = Path(sys.base_prefix, "lib", f"python3.{sys.version_info.minor}", "lib-dynload")

names = sorted(path.name.partition(".")[0] for path in _STANDARD.glob("*.so"))
for name in names:
    importlib.import_module(name)
sys.stdout.write(f"{len(names)} modules of Python, SQLite {dbapi2.sqlite_version}\n")
