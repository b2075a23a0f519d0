"""Bytes of memory that clients make the daemon hold, counted by UID and in all."""


class Holdings:
    """The bytes of each UID, and their sum; a limit of 0 is none."""

    def __init__(self, uid_limit: int, limit: int) -> None:
        self._uid_limit = uid_limit
        self._limit = limit
        self._by_uid: dict[int, int] = {}
        self.total = 0

    def of(self, uid: int) -> int:
        """The bytes of a UID."""
        return self._by_uid.get(uid, 0)

    def change(self, uid: int, more: int) -> None:
        """Count more bytes of the UID, or less."""
        self.total += more
        held = self.of(uid) + more
        if held:
            self._by_uid[uid] = held
        else:
            self._by_uid.pop(uid, None)

    def exceeding_uid(self, uid: int) -> int | None:
        """The UID that holds too much after this one's bytes have become more; None: nobody does."""
        if self._uid_limit and self.of(uid) > self._uid_limit:
            return uid
        if self._limit and self.total > self._limit:
            return max(self._by_uid, key=self._by_uid.__getitem__)
        return None
