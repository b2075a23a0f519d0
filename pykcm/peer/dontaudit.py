"""Denials that libselinux keeps to itself, by rules of the policy that were made for other files."""

from typing import Any

# SELINUX_AVD_FLAGS_PERMISSIVE: of a type that nothing is denied to.
_PERMISSIVE_TYPE = 1


def unaudited_denial(binding: Any, peer: str, target: str, class_: str, permission: str) -> bytes | None:
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
