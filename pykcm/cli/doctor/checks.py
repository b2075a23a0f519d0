"""All checks, in the order in which they are reported: what others depend on comes first."""

from pykcm.cli.doctor import clients, configuration, selinux, sockets, storage, trip, units

CHECKS = (
    *configuration.CHECKS,
    *units.CHECKS,
    *sockets.CHECKS,
    *clients.CHECKS,
    *selinux.CHECKS,
    *storage.CHECKS,
    *trip.CHECKS,
)
