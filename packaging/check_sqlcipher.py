"""Check that the built sqlcipher3 encrypts, with a SQLCipher of version 4 or later."""

import sys
import tempfile
from pathlib import Path

from sqlcipher3 import dbapi2 as sqlcipher

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "db"
    db = sqlcipher.connect(path)
    db.execute(f"PRAGMA key = \"x'{'00' * 32}'\"")
    rows = db.execute("PRAGMA cipher_version").fetchall()
    version = rows[0][0] if rows else "none"
    db.execute("CREATE TABLE t (x)")
    db.close()
    if int(version.partition(".")[0]) < 4 or path.read_bytes().startswith(b"SQLite format 3"):
        sys.exit(f"sqlcipher3 has been built with SQLCipher {version}")
    sys.stdout.write(
        f"sqlcipher3 has been built with SQLCipher {version}, SQLite {sqlcipher.sqlite_version}\n"
    )
