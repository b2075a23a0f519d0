"""The store in an encrypted SQLite database, and what is done with the database as a whole."""
