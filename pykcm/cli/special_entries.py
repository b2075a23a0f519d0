"""Special properties of a ccache in words: KDC offset, delegation, FAST armor, configuration."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

# krb5_ccache_conf_data/KEY or krb5_ccache_conf_data/KEY/PRINCIPAL, where separators are quoted.
_CONFIGURATION = re.compile(r"krb5_ccache_conf_data/((?:[^/\\@]|\\.)+)(?:/((?:[^/\\@]|\\.)+))?@X-CACHECONF:")
_QUOTED = re.compile(r"\\([/@\\])")

# The keys of MIT's and Heimdal's libraries.
_KEYS = {
    "fast_avail": ("FAST armor", "the KDC supports it"),
    "pa_type": ("Login", "the type of pre-authentication is remembered"),
    "pa_config_data": ("Login", "the settings of pre-authentication are remembered"),
    "proxy_impersonator": (
        "Delegation",
        "a service uses these tickets for the principal (S4U2Proxy)",
    ),
    "pykcm_renewal": ("Renewal", "pykcm-renew leaves this ccache alone (pykcmctl renew --off)"),
    "refresh_time": ("Renewal", "a client keytab renews these tickets"),
    "start_realm": ("Realm", "requests begin in another realm than the principal's"),
    "time-offset": ("KDC offset", "Heimdal keeps it in an entry of its own"),
    "FriendlyName": ("Name", "it has a name for people"),
}

_ANONYMOUS = "WELLKNOWN/ANONYMOUS@"

# Ticket flags of RFC 4120: bits counted from the highest of 32.
_FORWARDED, _PROXY, _OK_AS_DELEGATE = 2, 4, 13

_SERVICES_NAMED = 3


def notes(head: dict[str, Any], credentials: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield a topic and a sentence for each thing that most ccaches do not have."""
    offset = head["kdc_offset"]
    if offset:
        direction = "ahead of" if offset > 0 else "behind"
        yield "KDC offset", f"the KDC's clock is {abs(offset)} s {direction} this machine's"
    if (head["principal"] or "").replace("\\", "").startswith(_ANONYMOUS):
        yield "FAST armor", "the principal is anonymous, as in ccaches that are used as armor"
    tickets = [each for each in credentials if not each["configuration"]]
    yield from _delegation(head, tickets)
    for each in credentials:
        if each["configuration"]:
            yield _configuration(each["server"], head["principal"] or "")


def _delegation(head: dict[str, Any], tickets: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for bit, sentence in (
        (_FORWARDED, "forwarded from another host"),
        (_PROXY, "proxy tickets"),
        (_OK_AS_DELEGATE, "the KDC trusts these services with forwarded tickets"),
    ):
        servers = [each["server"] for each in tickets if each["flags"] >> (31 - bit) & 1]
        if servers:
            yield "Delegation", f"{sentence}: {_some(servers)}"
    clients = {each["client"] for each in tickets} - {head["principal"]}
    if clients:
        yield "Delegation", f"there are tickets of other clients: {_some(sorted(clients))}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SERVICES_NAMED
    return ", ".join(names[:_SERVICES_NAMED]) + (f" and {more} more" if more > 0 else "")


def _configuration(server: str, principal: str) -> tuple[str, str]:
    """The topic and the meaning of an entry that is not a ticket."""
    found = _CONFIGURATION.fullmatch(server)
    if found is None:
        return "Other entry", server
    key = _QUOTED.sub(r"\1", found[1])
    topic, meaning = _KEYS.get(key, ("Other entry", "another program's"))
    realm = principal.rpartition("@")[2]
    about = _QUOTED.sub(r"\1", found[2] or "")
    # Most entries are about the KDC of the principal's realm.
    where = "" if about in {"", f"krbtgt/{realm}@{realm}"} else f" for {about}"
    return topic, f"{meaning} ({key}{where})"
