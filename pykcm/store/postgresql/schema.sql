-- Schema 1 of pykcm's shared store. A database administrator may run it by hand, instead of
-- `pykcmctl store init`. It needs no extension, no trigger and no superuser.

CREATE SCHEMA pykcm;

-- One row: the version of this schema, and until when a commit notifies hosts that listen (NULL: none does).
CREATE TABLE pykcm.schema (version integer NOT NULL, listened_until timestamptz);

-- Keys that hosts seal with, by id. The keys themselves are known to the hosts alone. One of them may seal.
-- During a rekey there are rows of the one before it, too, which may not.
CREATE TABLE pykcm.keys (
    id bytea PRIMARY KEY,
    may_seal boolean NOT NULL,
    since timestamptz NOT NULL DEFAULT now()
);

-- A row for each UID that ever had a ccache. It is never deleted: a version is used once.
CREATE TABLE pykcm.collections (
    uid bigint PRIMARY KEY,
    version bigint NOT NULL
);

-- ccache and item are UUIDs, or 16 zero bytes: a row without an item is a ccache, one without both
-- is the name of the default ccache, all others are credentials.
CREATE TABLE pykcm.secrets (
    uid bigint NOT NULL,
    ccache bytea NOT NULL,
    item bytea NOT NULL,
    -- The order in which they were stored.
    position bigint NOT NULL,
    expires bigint,
    sealed bytea NOT NULL,
    PRIMARY KEY (uid, ccache, item)
);

CREATE INDEX ccaches ON pykcm.secrets (expires, ccache, uid)
    WHERE item = '\x00000000000000000000000000000000' AND ccache <> '\x00000000000000000000000000000000';

-- Commits of the last hours, so that a host whose connection broke can find out what became of its own.
-- A commit that was not made, and never will be, has made = false.
-- uids: whose TGTs a commit has changed, for the host that renews TGTs (NULL: of nobody).
CREATE TABLE pykcm.commits (
    id bytea PRIMARY KEY,
    made boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    uids bigint[]
);

CREATE INDEX commits_at ON pykcm.commits (at);

-- Work that one host does for all, until the time at which another one may take it. The holder, where there
-- is one, may keep it before that.
CREATE TABLE pykcm.leases (
    name text PRIMARY KEY,
    until timestamptz NOT NULL,
    holder bytea
);

INSERT INTO pykcm.leases (name, until)
VALUES ('reaper', '-infinity'), ('commits', '-infinity'), ('renewals', '-infinity');

INSERT INTO pykcm.schema (version) VALUES (1);
