"""The numbers of users near a quota."""

from pykcm.ccaches.quotas import Quotas, Use, UsersNearQuotas

NOTHING = Use(0, 0, 0)


def test_users_count_from_80_percent_of_each_quota() -> None:
    users = UsersNearQuotas(Quotas(max_uid_ccaches=10, max_uid_size=1000, max_uid_credentials=5))
    assert users.numbers == {"max_uid_ccaches": 0, "max_uid_size": 0, "max_uid_credentials": 0}
    users.note(1000, Use(7, 799, 3))
    assert set(users.numbers.values()) == {0}
    users.note(1000, Use(8, 800, 4))
    assert set(users.numbers.values()) == {1}
    users.note(2000, Use(20, 0, 0))
    assert users.numbers == {"max_uid_ccaches": 2, "max_uid_size": 1, "max_uid_credentials": 1}


def test_user_who_makes_room_no_longer_counts() -> None:
    """A user counts once, however often they change their ccaches."""
    users = UsersNearQuotas(Quotas(max_uid_ccaches=10, max_uid_size=1000))
    for use in (Use(9, 0, 0), Use(10, 0, 0), Use(9, 0, 0)):
        users.note(1000, use)
    assert users.numbers == {"max_uid_ccaches": 1, "max_uid_size": 0}
    users.note(1000, Use(2, 900, 0))
    assert users.numbers == {"max_uid_ccaches": 0, "max_uid_size": 1}
    users.note(1000, NOTHING)
    assert users.numbers == {"max_uid_ccaches": 0, "max_uid_size": 0}


def test_nobody_is_near_a_quota_without_a_limit() -> None:
    users = UsersNearQuotas(Quotas(max_ccaches=5))
    users.note(1000, Use(10**6, 10**12, 10**6))
    assert users.numbers == {}


def test_users_far_from_quotas_take_no_memory() -> None:
    users = UsersNearQuotas(Quotas(max_uid_ccaches=10))
    for uid in range(1000):
        users.note(uid, Use(9, 0, 0))
        users.note(uid, Use(1, 0, 0))
    assert not users._near
