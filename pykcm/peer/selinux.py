"""The SELinux policy: whether it lets a peer read or write a ccache, asked of libselinux."""

import errno
import importlib
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from pykcm.peer.messages import AVC

log = logging.getLogger(__name__)

# Is told of what libselinux does not tell: the kind of the message, and its text.
Report = Callable[[int, bytes], None]

# What ccaches are to the policy.
_CLASS = "file"

# Decisions that are remembered, at most.
_MEMORY = 4096

# SELINUX_AVD_FLAGS_PERMISSIVE: of a type that nothing is denied to.
_PERMISSIVE_TYPE = 1

_WAY_OUT = (
    "install the distribution's binding of libselinux (python3-selinux) for the Python that runs pykcmd; "
    "in a virtual environment, `pip uninstall selinux` and include-system-site-packages = true in pyvenv.cfg"
)


class Permission(StrEnum):
    """What a peer may do with a ccache, by the policy's own names."""

    READ = "read"
    WRITE = "write"


class PolicyUnusableError(Exception):
    """The policy cannot be asked; the message says why, and names the way out."""


class Policy(Protocol):
    """What decides by labels."""

    def allows(self, peer: str, target: str, permission: Permission) -> bool:
        """Whether a peer of this context may do that with a target of that one.

        What it raises means that there is no answer, and so no access.
        """

    def has_context(self, context: str) -> bool:
        """Whether there is such a context: not every user, role, type and range go together.

        What it raises means that there is no answer.
        """


def load_policy(report: Report | None = None) -> "SELinuxPolicy":
    """The policy of a kernel that has SELinux; raises PolicyUnusableError."""
    try:
        binding = importlib.import_module("selinux")
    # PyPI's package of that name raises anything when it does not find the binding.
    except Exception as error:
        raise PolicyUnusableError(
            f"SELinux is enabled, but Python's module selinux cannot be loaded ({error}): {_WAY_OUT}"
        ) from error
    return SELinuxPolicy(binding, report)


class SELinuxPolicy:
    """Asks libselinux through its Python binding; raises PolicyUnusableError where that cannot answer.

    libselinux says "allowed" when it thinks that SELinux is disabled, or where the policy does not know the
    class or the permission, and ends the process when it is asked without being able to see policy reloads:
    so all of that is made sure of first.
    """

    def __init__(self, binding: Any, report: Report | None = None) -> None:
        self._binding = binding
        self._report = report
        self._memory: dict[tuple[Any, ...], bool] = {}
        self._memory_of: tuple[int, int] | None = None
        try:
            self._check()
        except (OSError, AttributeError, TypeError) as error:
            raise PolicyUnusableError(f"the SELinux policy cannot be asked ({error}): {_WAY_OUT}") from error

    def _check(self) -> None:
        binding = self._binding
        where = getattr(binding, "__file__", binding)
        if binding.is_selinux_enabled() != 1:
            raise PolicyUnusableError(
                f"SELinux is enabled in the kernel, but not according to {where} (which needs "
                f"/etc/selinux/config): {_WAY_OUT}"
            )
        binding.avc_open(None, 0)
        number, permissions = self._check_names()
        # What the answer is does not matter, and is not logged: only that the daemon is given one.
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
        """The policy's numbers of the class and of all permissions together."""
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
        """Raises OSError where libselinux cannot tell, PolicyUnusableError once a useless one is loaded."""
        return self._remembered((peer, target, permission), self._ask)

    def has_context(self, context: str) -> bool:
        """Raises as `allows` does."""
        return self._remembered((context,), self._check_context)

    def _remembered(self, asked: tuple[Any, ...], ask: Callable[..., bool]) -> bool:
        state = self._state()
        if state is None or state != self._memory_of or len(self._memory) >= _MEMORY:
            self._memory.clear()
            self._memory_of = None
            self._check_names()
            self._memory_of = state
        answer = self._memory.get(asked)
        if answer is None:
            answer = ask(*asked)
            # An answer from before or after a change must not be taken for one from beside it.
            if state is not None and self._state() == state:
                self._memory[asked] = answer
        return answer

    def _ask(self, peer: str, target: str, permission: Permission) -> bool:
        try:
            # What there is to say of a denial libselinux says itself: see messages.py.
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
        # Nothing here may change the decision.
        try:
            message = _unaudited_denial(self._binding, peer, target, _CLASS, permission.value)
            if message is not None:
                self._report(AVC, message)
        except Exception as error:  # noqa: BLE001
            log.debug("whether the policy denies what it does not audit cannot be told: %s", error)

    def _check_context(self, context: str) -> bool:
        try:
            answer: int = self._binding.security_check_context_raw(context)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return answer == 0

    def _state(self) -> tuple[int, int] | None:
        """What decisions depend on: how often the policy was loaded, booleans included, and the mode.

        Two reads of a page that the kernel shares. None where it cannot be read: nothing is remembered then.
        """
        try:
            return self._binding.selinux_status_policyload(), self._binding.selinux_status_getenforce()
        except OSError:
            return None


def _unaudited_denial(binding: Any, peer: str, target: str, class_: str, permission: str) -> bytes | None:
    """The message, in libselinux's words, of a denial for which there is a `dontaudit` rule; otherwise None.

    A ccache is a file of its process's type to the policy, as those in /proc/PID are. Policies have rules for
    those: that a process looks at all others there, as ps does, is nothing to tell of. Raises OSError.
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
