"""A binding of libselinux that tests can break."""

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

PEER, TARGET = "u:r:t:s0:c1", "u:r:t:s0:c2"


class Binding:
    """A binding of libselinux that works; a test breaks it in one place."""

    __file__ = "/usr/lib/selinux.py"

    def __init__(self) -> None:
        self.enabled: int | Exception = 1
        self.classes = {"file": 6}
        self.permissions = {"read": 2, "write": 4}
        self.answer: int | Exception = 0
        self.policies_loaded: int | Exception = 1
        self.enforcing = 1
        self.contexts = {"system_u:system_r:pykcm_t:s0", PEER}
        self.is_open = False
        self.asked: list[tuple[str, str, str, str]] = []
        self.while_asked: Callable[[], None] = lambda: None
        # The decision: allowed, auditdeny, flags.
        self.decision = (6, 0xFFFFFFFF, 0)
        self.failure: Exception | None = None

    def is_selinux_enabled(self) -> int:
        return given(self.enabled)

    def avc_open(self, options: None, count: int) -> int:
        assert (options, count) == (None, 0)
        self.is_open = True
        return 0

    def string_to_security_class(self, name: str) -> int:
        return self.classes.get(name, 0)

    def string_to_av_perm(self, number: int, name: str) -> int:
        assert number in self.classes.values()
        return self.permissions.get(name, 0)

    def getcon_raw(self) -> list[Any]:
        return [0, "system_u:system_r:pykcm_t:s0"]

    def av_decision(self) -> SimpleNamespace:
        return SimpleNamespace()

    def security_compute_av_raw(self, source: str, target: str, number: int, wanted: int, into: Any) -> int:
        assert (source, target, number, wanted) == (*[self.getcon_raw()[1]] * 2, 6, 6)
        return 0

    def security_compute_av_flags_raw(
        self, source: str, target: str, number: int, wanted: int, into: Any
    ) -> int:
        assert (source, target, number) == (PEER, TARGET, 6)
        if self.failure:
            raise self.failure
        into.allowed, into.auditdeny, into.flags = self.decision
        return 0

    def security_check_context_raw(self, context: str) -> int:
        if context not in self.contexts:
            raise error(errno.EINVAL)
        return 0

    def selinux_check_access(self, source: str, target: str, class_: str, permission: str) -> int:
        assert self.is_open, "the real one ends the process"
        self.asked.append((source, target, class_, permission))
        self.while_asked()
        return given(self.answer)

    def selinux_status_policyload(self) -> int:
        return given(self.policies_loaded)

    def selinux_status_getenforce(self) -> int:
        return self.enforcing


def given(answer: int | Exception) -> int:
    if isinstance(answer, Exception):
        raise answer
    return answer


def error(number: int) -> OSError:
    return OSError(number, "as a test wants it")
