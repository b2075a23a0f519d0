"""One side of a GSSAPI context, with MIT's library and the machine's own Python.

python3 gss_context.py initiate SERVICE@HOST    prints the token for the other side, in hexadecimal
python3 gss_context.py accept TOKEN             prints the client of the context
"""

import ctypes
import sys


class Buffer(ctypes.Structure):
    """gss_buffer_desc."""

    _fields_ = (("length", ctypes.c_size_t), ("value", ctypes.c_void_p))

    @classmethod
    def of(cls, value: bytes) -> "Buffer":
        """The caller must keep `value` alive."""
        return cls(len(value), ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p))

    def bytes(self) -> bytes:
        return ctypes.string_at(self.value, self.length)


class CallError(Exception):
    """A call has failed; the message is that of the mechanism."""


gss = ctypes.CDLL("libgssapi_krb5.so.2")
KRB5 = ctypes.c_void_p.in_dll(gss, "gss_mech_krb5")
HOSTBASED_SERVICE = ctypes.c_void_p.in_dll(gss, "GSS_C_NT_HOSTBASED_SERVICE")
_MECHANISMS_CODE = 2


def call(name: str, *arguments: object) -> None:
    minor = ctypes.c_uint32()
    major = getattr(gss, name)(ctypes.byref(minor), *arguments)
    if major:
        text, more = Buffer(), ctypes.c_uint32()
        ignored = ctypes.c_uint32()
        gss.gss_display_status(
            ctypes.byref(ignored), minor, _MECHANISMS_CODE, KRB5, ctypes.byref(more), ctypes.byref(text)
        )
        raise CallError(f"{name}: {major:#x} {text.bytes().decode()}")


def initiate(service: bytes) -> str:
    name, context, token = ctypes.c_void_p(), ctypes.c_void_p(), Buffer()
    asked = Buffer.of(service)
    call("gss_import_name", ctypes.byref(asked), HOSTBASED_SERVICE, ctypes.byref(name))
    call(
        "gss_init_sec_context",
        *(None, ctypes.byref(context), name, KRB5, 0, 0, None, None, None),
        *(ctypes.byref(token), None, None),
    )
    return token.bytes().hex()


def accept(token: bytes) -> str:
    name, context, reply, text = ctypes.c_void_p(), ctypes.c_void_p(), Buffer(), Buffer()
    given = Buffer.of(token)
    call(
        "gss_accept_sec_context",
        *(ctypes.byref(context), None, ctypes.byref(given), None, ctypes.byref(name), None),
        *(ctypes.byref(reply), None, None, None),
    )
    call("gss_display_name", name, ctypes.byref(text), None)
    return text.bytes().decode()


def main() -> None:
    side, argument = sys.argv[1:]
    try:
        said = initiate(argument.encode()) if side == "initiate" else accept(bytes.fromhex(argument))
    except CallError as failed:
        raise SystemExit(str(failed)) from None
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
