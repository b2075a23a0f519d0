"""The SELinux policy: libselinux decides whether a peer may read or write a ccache."""

import errno
import importlib
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from pykcm.peer.selinux_messages import AVC

log = logging.getLogger(__name__)

# Receives denials that libselinux does not report: the type of the message, and its text.
Report = Callable[[int, bytes], None]

# The class of ccaches in the policy.
_CLASS = "file"

# The largest number of cached decisions.
_MAX_DECISIONS = 4096

# SELINUX_AVD_FLAGS_PERMISSIVE: the peer's type is permissive, so nothing is denied to it.
_PERMISSIVE_TYPE = 1

_REMEDY = (
    "install the distribution's binding of libselinux (python3-selinux) for the Python that runs pykcmd; "
    "in a virtual environment, `pip uninstall selinux` and include-system-site-packages = true in pyvenv.cfg"
)


class Permission(StrEnum):
    """The accesses to a ccache, by the policy's own names."""

    READ = "read"
    WRITE = "write"


class PolicyUnusableError(Exception):
    """The policy cannot be used; the message says why, and what to do."""


class Policy(Protocol):
    """Decides by labels."""

    def allows(self, peer: str, target: str, permission: Permission) -> bool:
        """Whether a peer of this context may access a target of that context.

        An exception means that there is no answer, and therefore no access.
        """

    def has_context(self, context: str) -> bool:
        """Whether the context is valid: not every user may have every role, type and range.

        An exception means that there is no answer.
        """


def load_policy(report: Report | None = None) -> "SELinuxPolicy":
    """Load the policy of a kernel that has SELinux; raises PolicyUnusableError."""
    try:
        binding = importlib.import_module("selinux")
    # PyPI's package of that name raises various exceptions if it does not find the binding.
    except Exception as error:
        raise PolicyUnusableError(
            f"SELinux is enabled, but Python's module selinux cannot be loaded ({error}): {_REMEDY}"
        ) from error
    return SELinuxPolicy(binding, report)


class SELinuxPolicy:
    """Asks libselinux through its Python binding; raises PolicyUnusableError if libselinux cannot answer.

    libselinux allows everything if it believes that SELinux is disabled, or if the policy does not know the
    class or the permission. It ends the process if it cannot see policy reloads. The constructor therefore
    checks all of these first.
    """

    def __init__(self, binding: Any, report: Report | None = None) -> None:
        self._binding = binding
        self._report = report
        self._decisions: dict[tuple[Any, ...], bool] = {}
        self._decisions_state: tuple[int, int] | None = None
        try:
            self._check()
        except (OSError, AttributeError, TypeError) as error:
            raise PolicyUnusableError(f"the SELinux policy cannot be asked ({error}): {_REMEDY}") from error

    def _check(self) -> None:
        binding = self._binding
        where = getattr(binding, "__file__", binding)
        if binding.is_selinux_enabled() != 1:
            raise PolicyUnusableError(
                f"SELinux is enabled in the kernel, but not according to {where} (which needs "
                f"/etc/selinux/config): {_REMEDY}"
            )
        binding.avc_open(None, 0)
        number, permissions = self._check_names()
        # The answer does not matter and is not logged. The check is that the daemon gets one.
        _, own = binding.getcon_raw()
        try:
            binding.security_compute_av_raw(own, own, number, permissions, binding.av_decision())
            binding.security_check_context_raw(own)
        except OSError as error:
            raise PolicyUnusableError(
                f"the SELinux policy does not let the daemon ask for decisions ({error}): "
                f"its type, in {own}, needs compute_av and check_context of the class security"
            ) from error

    def _check_names(self) -> tuple[int, int]:
        """Return the policy's number of the class, and the bits of all permissions."""
        number = self._binding.string_to_security_class(_CLASS)
        if not number:
            raise PolicyUnusableError(f"the SELinux policy has no class {_CLASS}: pykcm cannot work with it")
        permissions = 0
        for permission in Permission:
            bit = self._binding.string_to_av_perm(number, permission.value)
            if not bit:
                raise PolicyUnusableError(
                    f"the SELinux policy has no permission {permission} of the class {_CLASS}: "
                    "pykcm cannot work with it"
                )
            permissions |= bit
        return number, permissions

    def allows(self, peer: str, target: str, permission: Permission) -> bool:
        """Raises OSError if libselinux has no answer, PolicyUnusableError if the policy became unusable."""
        return self._cached((peer, target, permission), self._ask)

    def has_context(self, context: str) -> bool:
        """Raises as `allows` does."""
        return self._cached((context,), self._check_context)

    def _cached(self, asked: tuple[Any, ...], ask: Callable[..., bool]) -> bool:
        state = self._state()
        if state is None or state != self._decisions_state or len(self._decisions) >= _MAX_DECISIONS:
            self._decisions.clear()
            self._decisions_state = None
            self._check_names()
            self._decisions_state = state
        answer = self._decisions.get(asked)
        if answer is None:
            answer = ask(*asked)
            # The policy may have changed while it was asked: such an answer is not cached.
            if state is not None and self._state() == state:
                self._decisions[asked] = answer
        return answer

    def _ask(self, peer: str, target: str, permission: Permission) -> bool:
        try:
            # libselinux reports denials itself: see selinux_messages.py.
            answer: int = self._binding.selinux_check_access(peer, target, _CLASS, permission.value)
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
            answer = -1
        self._report_unaudited(peer, target, permission)
        return answer == 0

    def _report_unaudited(self, peer: str, target: str, permission: Permission) -> None:
        if self._report is None:
            return
        # An error here must not change the decision.
        try:
            message = _unaudited_denial(self._binding, peer, target, _CLASS, permission.value)
            if message is not None:
                self._report(AVC, message)
        except Exception as error:  # noqa: BLE001
            log.debug("an unaudited denial could not be looked up: %s", error)

    def _check_context(self, context: str) -> bool:
        try:
            answer: int = self._binding.security_check_context_raw(context)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return answer == 0

    def _state(self) -> tuple[int, int] | None:
        """The state that decisions depend on: the number of policy loads (booleans included), and the mode.

        It takes two reads of a page that the kernel shares. None: it cannot be read, and nothing is cached.
        """
        try:
            return self._binding.selinux_status_policyload(), self._binding.selinux_status_getenforce()
        except OSError:
            return None


def _unaudited_denial(binding: Any, peer: str, target: str, class_: str, permission: str) -> bytes | None:
    """The message, in libselinux's words, of a denial that a `dontaudit` rule hides; otherwise None.

    To the policy a ccache is a file of its process's type, as the files in /proc/PID are. Policies have
    `dontaudit` rules for those, because programs like ps look at all of them. Raises OSError.
    """
    number = binding.string_to_security_class(class_)
    bit = binding.string_to_av_perm(number, permission)
    decision = binding.av_decision()
    binding.security_compute_av_flags_raw(peer, target, number, bit, decision)
    if bit & (decision.allowed | decision.auditdeny):
        return None
    is_permissive = binding.selinux_status_getenforce() == 0 or decision.flags & _PERMISSIVE_TYPE
    return (
        f"avc:  denied  {{ {permission} }} for  scontext={peer} tcontext={target} "
        f"tclass={class_} permissive={int(bool(is_permissive))}"
    ).encode(errors="surrogateescape")
