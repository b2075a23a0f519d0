"""The store in an encrypted SQLite database, with its backups and changes of keys."""
