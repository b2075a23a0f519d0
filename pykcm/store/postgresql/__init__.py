"""The store that many hosts share: a PostgreSQL database that holds nothing but sealed rows."""
