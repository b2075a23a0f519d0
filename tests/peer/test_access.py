"""Access decisions, by name, by label and by level."""

import errno

import pytest

from pykcm.peer.access import Access, RequestAccess
from pykcm.peer.identity import Peer
from pykcm.peer.names import MAX_NAME
from pykcm.peer.selinux import Permission, PolicyUnusableError
from pykcm.protocol.codes import Code
from tests.builders import peer, refused
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs

USER = peer(1000)
ROOT = peer(0)
ACCESS = Access()


@pytest.mark.parametrize("name", [b"1000", b"1000:", b"1000:x y/\xff", b"1000:2000"])
def test_own_names_may_be_used(name: bytes) -> None:
    """A peer may read and change the names of its own UID."""
    assert ACCESS.collection_to_read(USER, name) == 1000
    assert ACCESS.collection_to_change(USER, name) == 1000


@pytest.mark.parametrize("name", [b"0", b"0:x", b"2000", b"2000:1000", b"10000", b"100", b"1", b"4294967294"])
def test_names_of_other_uids_are_refused(name: bytes) -> None:
    """Another UID's name reads as if it did not exist, and may not be created or changed."""
    with refused(Code.FCC_NOFILE):
        ACCESS.collection_to_read(USER, name)
    with refused(Code.FCC_PERM):
        ACCESS.collection_to_change(USER, name)


@pytest.mark.parametrize("name", [b"foobar", b"1000x", b"01000", b"+1000", b":1000", b"4294967295"])
def test_free_names_are_bad_names(name: bytes) -> None:
    """A free name is CC_BADNAME for everybody except root."""
    with refused(Code.CC_BADNAME):
        ACCESS.collection_to_read(USER, name)
    with refused(Code.CC_BADNAME):
        ACCESS.collection_to_change(USER, name)


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        (b"0", 0),
        (b"0:x", 0),
        (b"1000", 1000),
        (b"1000:x", 1000),
        (b"4294967294", 2**32 - 2),
        (b"foobar", 0),
        (b"1000x", 0),
        (b"4294967295", 0),
    ],
)
def test_root_may_use_every_name(name: bytes, uid: int) -> None:
    """Root may use every name: one of a UID belongs to that UID, a free one to root."""
    assert ACCESS.collection_to_read(ROOT, name) == uid
    assert ACCESS.collection_to_change(ROOT, name) == uid


@pytest.mark.parametrize("uid", [0, 1000])
def test_length_of_names(uid: int) -> None:
    """A name has at most 1,024 bytes, also for root. No name at all means the peer's own UID."""
    longest = b"%d:" % uid + b"x" * (MAX_NAME - len(b"%d:" % uid))
    assert len(longest) == 1024
    assert ACCESS.collection_to_change(peer(uid), longest) == uid
    assert ACCESS.collection_to_read(peer(uid), longest) == uid
    for decide in (ACCESS.collection_to_read, ACCESS.collection_to_change):
        with refused(Code.CC_BADNAME):
            decide(peer(uid), longest + b"x")
        assert decide(peer(uid), b"") == uid


def test_only_root_lists_everyones_ccaches() -> None:
    """Only root lists everyone's ccaches, and only if it is configured."""
    assert not ACCESS.lists_all(ROOT)
    assert not ACCESS.lists_all(USER)
    everyones = Access(root_lists_all=True)
    assert everyones.lists_all(ROOT)
    assert not everyones.lists_all(USER)


# By label


class Noting:
    """A policy that allows what it was told to, and notes what it was asked."""

    def __init__(self, answer: bool | Exception = True, *impossible: str) -> None:
        self.answer = answer
        self.impossible = impossible
        self.asked: list[tuple[str, str, str]] = []

    def allows(self, peer: str, target: str, permission: Permission) -> bool:
        self.asked.append((peer, target, permission.value))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def has_context(self, context: str) -> bool:
        return context not in self.impossible


LABELLED = USER._replace(label="u:r:t:s0-s0:c0.c9")


@pytest.mark.parametrize("label", [None, "", "nonsense", "u:r:t:s0:c1"])
@pytest.mark.parametrize("who", [USER, LABELLED, USER._replace(label="nonsense")])
def test_labels_do_not_count_without_a_policy(who: Peer, label: str | None) -> None:
    """Without SELinux every ccache of the UID may be read and changed, labelled or not."""
    assert ACCESS.may_read(who, label)
    assert ACCESS.may_change(who, label)
    assert ACCESS.range_of(who) is None
    assert ACCESS.shares_default(who)


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("who", [LABELLED, LABELLED._replace(uid=0)], ids=["user", "root"])
def test_policy_decides_also_for_root(who: Peer, answer: bool) -> None:
    """The policy decides about reads and changes, also for root: the peer's own domain at the level."""
    policy = Noting(answer)
    access = Access(policy=policy)
    assert access.may_read(who, "x:y:z:s0:c1-s0:c1.c5") is answer
    assert access.may_change(who, None) is answer
    assert policy.asked == [
        ("u:r:t:s0-s0:c0.c9", "u:r:t:s0:c1-s0:c1.c5", "read"),
        ("u:r:t:s0-s0:c0.c9", "u:r:t:s0", "write"),
    ]


@pytest.mark.parametrize("answer", [True, False])
def test_overwritten_ccache_keeps_a_label_that_could_read_it(answer: bool) -> None:
    """An overwritten ccache keeps its label if its creator could read the new contents."""
    policy = Noting(answer)
    access = Access(policy=policy)
    kept = access.label_after_write(LABELLED, "x:y:z:s0:c1", LABELLED.label) == "x:y:z:s0:c1"
    assert kept is answer
    assert policy.asked == [("x:y:z:s0:c1", "x:y:z:s0-s0:c0.c9", "read")]


def test_label_after_write_without_an_answer() -> None:
    """Without a policy each label stays, and so does an equal one. A missing label never stays."""
    policy = Noting(OSError(errno.EINVAL, "Invalid argument"))
    access = Access(policy=policy)
    assert ACCESS.label_after_write(USER, "x:y:z:s0:c1", None) == "x:y:z:s0:c1"
    assert access.label_after_write(LABELLED, LABELLED.label, LABELLED.label) == LABELLED.label
    assert access.label_after_write(LABELLED, None, LABELLED.label) == LABELLED.label
    assert policy.asked == []
    assert access.label_after_write(LABELLED, "x:y:z:s0:c1", LABELLED.label) == LABELLED.label


def test_user_without_categories_is_decided_at_the_low_level() -> None:
    """A user who may not have categories uses a ccache of all categories by its low level."""
    policy = Noting(True, *("u:r:t:s0-s0:c0.c9", "u:r:t:s0:c0"), "v:r:t:s0:c1-s0:c0.c9", "x:r:t:s0-s0:c0.c9")
    access = Access(policy=policy)
    ccache = "x:y:z:s0-s0:c0.c9"
    for label in ("u:r:t:s0", "w:r:t:s0", "x:r:t:s0"):
        assert access.may_read(USER._replace(label=label), ccache)
    assert access.may_read(USER._replace(label="v:r:t:s0:c1"), "x:y:z:s0:c1-s0:c0.c9")
    assert policy.asked == [
        ("u:r:t:s0", "u:r:t:s0", "read"),
        ("w:r:t:s0", "w:r:t:s0-s0:c0.c9", "read"),
        ("x:r:t:s0", "x:r:t:s0-s0:c0.c9", "read"),
        ("v:r:t:s0:c1", "v:r:t:s0:c1-s0:c0.c9", "read"),
    ]


@pytest.mark.parametrize(
    ("label", "ccache", "answer"),
    [
        (None, "u:r:t:s0", True),
        ("", "u:r:t:s0", True),
        ("nonsense", "u:r:t:s0", True),
        ("u:r:t:s0", "", True),
        ("u:r:t:s0", "nonsense", True),
        ("u:r:t:s0", "u:r:t:s0", OSError(errno.EINVAL, "Invalid argument")),
        ("u:r:t:s0", "u:r:t:s0", OSError(errno.ENOENT, "No such file or directory")),
        ("u:r:t:s0", None, ValueError("anything")),
        ("u:r:t:s0", None, PolicyUnusableError("no class file")),
    ],
)
def test_no_answer_means_no_access(
    label: str | None, ccache: str | None, answer: bool | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an answer access is denied, and the log says so once a minute for each UID."""
    access = Access(policy=Noting(answer))
    who = USER._replace(label=label)
    for _ in range(3):
        assert not access.may_read(who, ccache)
        assert not access.may_change(who, ccache)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "UID 1000: no answer from the SELinux policy" in record.getMessage()


def test_label_does_not_break_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """A label with control characters does not make another line in the log."""
    assert not Access(policy=Noting()).may_read(USER._replace(label="a\nb\x1b[2J"), "c\ud800")
    assert "\n" not in caplog.text.rstrip()
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("label", "range_", "shares"),
    [
        ("u:r:t:s0", "s0", True),
        ("u:r:t:s0-s0:c0.c1023", "s0-s0:c0.c1023", True),
        ("u:r:t:s0:c1,c2", "s0:c1,c2", False),
        ("u:r:t:s1", "s1", False),
        ("u:r:t:s1-s15:c0.c1023", "s1-s15:c0.c1023", False),
        ("u:r:t", None, True),
    ],
)
def test_range_and_shared_default_by_label(label: str, range_: str | None, shares: bool) -> None:
    """Peers on the lowest level share a default and may have one by range; others do not share it."""
    access = Access(policy=Noting())
    assert access.range_of(USER._replace(label=label)) == range_
    assert access.shares_default(USER._replace(label=label)) is shares


@pytest.mark.parametrize("label", [None, "", "nonsense"])
def test_no_default_without_a_label(label: str | None) -> None:
    """A peer without a valid label has no default under a policy."""
    access = Access(policy=Noting())
    for ask in (access.range_of, access.shares_default):
        with refused(Code.FCC_PERM):
            ask(USER._replace(label=label))


# With a policy of categories


MCS = Access(policy=Mcs())


def with_label(label: str | None, uid: int = 1000) -> Peer:
    return peer(uid)._replace(label=label)


@pytest.mark.parametrize("label", [HOST, CONTAINER_1, CONTAINER_2, None, ""])
def test_use_needs_read_and_write(label: str | None) -> None:
    """A ccache may be used by a peer that may both read and change it."""
    for asking in (HOST, HOST_LOW, CONTAINER_1, CONTAINER_2):
        who = with_label(asking)
        assert MCS.may_use(who, label) == (MCS.may_read(who, label) and MCS.may_change(who, label))
    read_only = Access(policy=Mcs(HOST))
    assert read_only.may_read(with_label(HOST), CONTAINER_1)
    assert not read_only.may_use(with_label(HOST), CONTAINER_1)


@pytest.mark.parametrize(
    ("label", "is_unconfined"), [(HOST, True), (HOST_LOW, False), (CONTAINER_1, False), (None, False)]
)
def test_only_a_peer_with_all_categories_is_unconfined(label: str | None, is_unconfined: bool) -> None:
    """A peer is unconfined if it may use a ccache of all categories; without a policy everyone is."""
    assert MCS.is_unconfined(with_label(label)) is is_unconfined
    assert not Access(policy=Mcs(HOST)).is_unconfined(with_label(HOST))
    assert ACCESS.is_unconfined(with_label(label))


@pytest.mark.parametrize(
    ("label", "traced", "may_trace"),
    [
        (HOST, HOST, True),
        (HOST, CONTAINER_1, True),
        (CONTAINER_1, CONTAINER_1, True),
        (CONTAINER_1, CONTAINER_2, False),
        # The traced peer is answered of ccaches with categories that the asking one does not have.
        (CONTAINER_1, HOST_LOW, False),
        (HOST_LOW, HOST_LOW, False),
        (HOST_LOW, CONTAINER_1, False),
    ],
)
def test_trace_needs_all_that_the_traced_peer_may_read(label: str, traced: str, may_trace: bool) -> None:
    """A peer may trace another one if it may know every answer that the other one gets."""
    assert MCS.may_trace(with_label(label, uid=0), with_label(traced)) is may_trace


@pytest.mark.parametrize(
    ("label", "moved", "administered"),
    [
        (HOST, {None, "s0-s0:c0.c1023"}, {None, "s0-s0:c0.c1023", "s0:c1,c2", "s0"}),
        (HOST_LOW, {None, "s0"}, {None, "s0"}),
        (CONTAINER_1, {"s0:c1,c2"}, {"s0:c1,c2"}),
    ],
)
def test_defaults_move_by_range(label: str, moved: set[str | None], administered: set[str | None]) -> None:
    """A peer moves the default of its range, and the shared one on the lowest level; unconfined ones all."""
    ranges = {None, "s0", "s0-s0:c0.c1023", "s0:c1,c2"}
    who = with_label(label)
    assert {range_ for range_ in ranges if MCS.may_move_default(who, range_)} == moved
    assert {range_ for range_ in ranges if MCS.may_administer_default(who, range_)} == administered


def test_shared_default_above_the_lowest_level_is_the_peers_own_name() -> None:
    """Root in a container is not given another UID's ccache that root on the host has chosen."""
    assert MCS.may_create_shared_default(with_label(HOST, uid=0), b"1000:x")
    assert MCS.may_create_shared_default(with_label(CONTAINER_1, uid=0), b"0:x")
    assert not MCS.may_create_shared_default(with_label(CONTAINER_1, uid=0), b"1000:x")
    assert MCS.may_create_shared_default(with_label(CONTAINER_1), b"1000:x")


def test_import_without_a_label_gets_the_peers() -> None:
    """An imported ccache keeps its label; one of a host without labels gets the label of the peer."""
    assert Access.label_of_import(LABELLED, CONTAINER_1) == CONTAINER_1
    assert Access.label_of_import(LABELLED, None) == LABELLED.label


@pytest.mark.parametrize(
    ("label", "existing", "may_import"),
    [
        (None, CONTAINER_1, True),
        (None, None, True),
        (CONTAINER_1, CONTAINER_1.replace("container_t", "other_t"), True),
        (CONTAINER_1, CONTAINER_2, False),
        (CONTAINER_1, None, False),
        (HOST, HOST_LOW, False),
    ],
)
def test_import_replaces_only_at_the_same_level(
    label: str | None, existing: str | None, may_import: bool
) -> None:
    """An imported ccache with a label replaces none of another range, as that one would keep its label."""
    assert Access.may_import_over(label, existing) is may_import


def test_a_request_is_for_administrators_and_the_users_that_it_names() -> None:
    """Users that do not exist are nobody, and each name is looked up once."""
    looked_up = []

    def uid_of(user: str) -> int | None:
        looked_up.append(user)
        return {"pykcm-metrics": 900}.get(user)

    access = RequestAccess({0, 20003}, uid_of)
    for uid in (0, 20003):
        assert access.is_administrator(with_label(CONTAINER_1, uid))
        assert access.may_request(peer(uid), ())
    assert looked_up == []
    for _ in range(2):
        assert not access.is_administrator(peer(900))
        assert access.may_request(peer(900), ("pykcm-renew", "pykcm-metrics"))
        assert not access.may_request(peer(900), ())
        assert not access.may_request(peer(900), ("pykcm-renew",))
        assert not access.may_request(peer(901), ("pykcm-renew", "pykcm-metrics"))
    assert sorted(looked_up) == ["pykcm-metrics", "pykcm-renew"]
