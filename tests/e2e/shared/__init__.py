"""Several daemons as hosts of one database, and the means to disturb them and to check their answers."""
