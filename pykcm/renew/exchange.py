"""The exchange with the KDC: one TGT is renewed by libkrb5, which may block for minutes.

Only worker processes import this module: libkrb5's call holds the interpreter's lock while it waits.
"""

import time

import krb5

from pykcm.renew.failures import RenewalError, failure_of

# MIT's libkrb5 has them since 1.20.
CAN_RENEW = hasattr(krb5, "unmarshal_credentials") and hasattr(krb5, "marshal_credentials")


def renew(credential: bytes, kdc_offset: int) -> bytes:
    """Return the renewed TGT; both are in ccache file format 4. Raises RenewalError.

    `kdc_offset`: in seconds, the KDC's clock minus this machine's, as the ccache has it.
    """
    try:
        return _renew(credential, kdc_offset)
    except krb5.Krb5Error as error:
        raise failure_of(error.err_code, str(error)) from None


def _renew(credential: bytes, kdc_offset: int) -> bytes:
    # A new context reads krb5.conf again, and remembers nothing of earlier TGTs.
    context = krb5.init_context()
    if kdc_offset:
        krb5.set_real_time(context, int(time.time()) + kdc_offset, -1)
    tgt = krb5.unmarshal_credentials(context, credential)
    ccache = krb5.cc_new_unique(context, b"MEMORY")
    try:
        krb5.cc_initialize(context, ccache, tgt.client)
        krb5.cc_store_cred(context, ccache, tgt)
        renewed = krb5.get_renewed_creds(context, tgt.client, ccache, _service(context, tgt))
        return krb5.marshal_credentials(context, renewed)
    finally:
        # A ccache in memory stays in the process until it is destroyed.
        krb5.cc_destroy(context, ccache)


def _service(context: krb5.Context, tgt: krb5.Creds) -> bytes | None:
    """Return the service that libkrb5 renews; None: the TGT of the client's realm. Raises RenewalError."""
    realm = tgt.client.realm
    if tgt.server.realm != realm:
        # libkrb5 would ask the client's realm for a ticket that another realm has issued.
        raise RenewalError(
            "not-renewable",
            0,
            "the TGT was issued by another realm than the client's, and libkrb5 cannot renew such a TGT",
            again=False,
        )
    if tgt.server.components == [b"krbtgt", realm]:
        return None
    return krb5.unparse_name_flags(context, tgt.server, krb5.PrincipalUnparseFlags.no_realm)
