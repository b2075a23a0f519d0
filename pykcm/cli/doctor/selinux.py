"""SELinux: where the kernel has it, the daemon must be able to ask the policy."""

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.where import SELINUX_MODE, Where
from pykcm.peer.selinux import PolicyUnusableError

# What the daemon runs as where the policy has pykcm's module.
_DAEMON = "system_u:system_r:pykcm_t:s0"


def selinux(where: Where) -> Outcome:
    """The kernel and the binding agree. The Python that runs this is taken for the daemon's."""
    if not where.has_selinux:
        return ok("the kernel has none: labels play no part")
    if not where.daemon_is_here:
        return skipped("pykcm is not installed here")
    try:
        policy = where.load_policy()
    except PolicyUnusableError as error:
        return failed(
            f"{error}: the daemon does not start",
            "apt-get install python3-selinux || dnf install python3-libselinux",
        )
    is_enforcing = where.path(SELINUX_MODE).read_text(encoding="ascii").strip() == "1"
    mode = "enforcing" if is_enforcing else "permissive"
    if not policy.has_context(_DAEMON):
        return warning(
            f"{mode}, and pykcm's policy module is not installed: the daemon is not confined, and users and "
            "services that are may not connect; docs/selinux.md says how to install it"
        )
    return ok(f"{mode}, with pykcm's policy module, and the binding of libselinux can ask the policy")


CHECKS = (Check("SELinux", selinux),)
