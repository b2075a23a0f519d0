"""How the store's files are called; for those, too, who need not load the store."""

DATABASE = "pykcm.db"
WAL = f"{DATABASE}-wal"

# Of the daemon's own key, in raw bytes, and of the systemd credential that may be in its place.
KEY = "key"
KEY_SIZE = 32
CREDENTIAL = "pykcm.key"

# The new key, until it stands where the old one came from.
PENDING_KEY = "key.next"

# When the clock was last read: see sighting.
CLOCK = "clock"
