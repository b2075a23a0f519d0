"""SELinux: where the kernel has it, the daemon must be able to ask the policy."""

from pykcm.admin.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped
from pykcm.admin.cli.doctor.where import Where
from pykcm.peer.selinux import PolicyUnusableError


def selinux(where: Where) -> Outcome:
    """The kernel and the binding agree. The Python that runs this is taken for the daemon's."""
    enforce = where.path("/sys/fs/selinux/enforce")
    if not enforce.exists():
        return ok("the kernel has none: labels play no part")
    if not where.daemon_is_here:
        return skipped("pykcm is not installed here")
    try:
        where.load_policy()
    except PolicyUnusableError as error:
        return failed(
            f"{error}: the daemon does not start",
            "apt-get install python3-selinux || dnf install python3-libselinux",
        )
    mode = "enforcing" if enforce.read_text(encoding="ascii").strip() == "1" else "permissive"
    return ok(f"{mode}, and the binding of libselinux can ask the policy")


CHECKS = (Check("SELinux", selinux),)
