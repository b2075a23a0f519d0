"""Check of SELinux: on SELinux hosts, the daemon must be able to query the policy."""

from pykcm.cli.doctor.environment import SELINUX_MODE, Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.peer.selinux import PolicyUnusableError

# The daemon's context, if pykcm's policy module is installed.
_DAEMON = "system_u:system_r:pykcm_t:s0"


def selinux(environment: Environment) -> Result:
    """Check libselinux's binding, for the Python that runs this, and pykcm's policy module."""
    if not environment.has_selinux:
        return ok("the kernel has no SELinux: labels are not used")
    if not environment.daemon_is_here:
        return skipped("pykcm is not installed here")
    try:
        policy = environment.load_policy()
    except PolicyUnusableError as error:
        return failed(
            f"{error}: the daemon refuses to start",
            "apt-get install python3-selinux || dnf install python3-libselinux",
        )
    is_enforcing = environment.path(SELINUX_MODE).read_text(encoding="ascii").strip() == "1"
    mode = "enforcing" if is_enforcing else "permissive"
    if not policy.has_context(_DAEMON):
        return warning(
            f"{mode}, and pykcm's policy module is not installed: the daemon is not confined, and confined "
            "users and services may not connect; docs/selinux.md says how to install the module"
        )
    return ok(f"{mode}, with pykcm's policy module, and libselinux can query the policy")


CHECKS = (Check("SELinux", selinux),)
