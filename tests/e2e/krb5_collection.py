"""A process that works on the collection `KCM:` through MIT's library, with the machine's own Python.

python3 krb5_collection.py STEP...

Each step is a word and a ccache, separated by a colon. Ccaches are numbered: 0 is the one that `KCM:` stands
for when the program starts, 1 and 2 have new names. After each step, the program prints a JSON object with

    primary    the number of the ccache that `KCM:` stands for
    holder     the number of its principal, null if it cannot be read
    listed     the numbers of the collection's ccaches, in the order of the library's cursor
    found      for each ccache, the number of the ccache that is found by its principal, or null
"""

import ctypes
import json
import sys

krb5 = ctypes.CDLL("libkrb5.so.3")
krb5.krb5_get_error_message.restype = ctypes.c_char_p
krb5.krb5_cc_get_type.restype = ctypes.c_char_p
context = ctypes.c_void_p()
COLLECTION = b"KCM:"
NUMBERS = range(3)


def call(name: str, *arguments: object) -> None:
    code = getattr(krb5, name)(context, *arguments)
    if code:
        message = krb5.krb5_get_error_message(context, code)
        raise SystemExit(f"{name}: {message.decode()}")


def resolved(name: bytes) -> ctypes.c_void_p:
    ccache = ctypes.c_void_p()
    call("krb5_cc_resolve", name, ctypes.byref(ccache))
    return ccache


def name_of(ccache: ctypes.c_void_p) -> bytes:
    name = ctypes.c_char_p()
    call("krb5_cc_get_full_name", ccache, ctypes.byref(name))
    assert name.value is not None
    return name.value


def principal(number: int) -> ctypes.c_void_p:
    parsed = ctypes.c_void_p()
    call("krb5_parse_name", b"user%d@PYKCM.TEST" % number, ctypes.byref(parsed))
    return parsed


class Collection:
    """The ccaches of the steps. Their handles stay open, as in a program that holds ccaches."""

    def __init__(self) -> None:
        self.principals = [principal(number) for number in NUMBERS]
        self.handles = [resolved(COLLECTION)]
        for _ in NUMBERS[1:]:
            handle = ctypes.c_void_p()
            call("krb5_cc_new_unique", b"KCM", None, ctypes.byref(handle))
            self.handles.append(handle)
        self.names = [name_of(handle) for handle in self.handles]
        assert len({COLLECTION, *self.names}) == 1 + len(NUMBERS)

    def step(self, word: str, number: int) -> None:
        handle = self.handles[number]
        if word == "initialize":
            call("krb5_cc_initialize", handle, self.principals[number])
        elif word == "switch":
            call("krb5_cc_switch", handle)
        elif word == "destroy":
            call("krb5_cc_destroy", handle)
            self.handles[number] = resolved(self.names[number])
        else:
            assert word == "look"

    def seen(self) -> dict[str, object]:
        primary = resolved(COLLECTION)
        name = name_of(primary)
        holder = ctypes.c_void_p()
        is_there = krb5.krb5_cc_get_principal(context, primary, ctypes.byref(holder)) == 0
        krb5.krb5_cc_close(context, primary)
        # The same ccache, by its name.
        by_name = resolved(name)
        assert is_there == (krb5.krb5_cc_get_principal(context, by_name, ctypes.byref(holder)) == 0)
        krb5.krb5_cc_close(context, by_name)
        return {
            "primary": self.names.index(name),
            "holder": self._number_of(holder) if is_there else None,
            "listed": list(self._listed()),
            "found": [self._found(number) for number in NUMBERS],
        }

    def _number_of(self, holder: ctypes.c_void_p) -> int:
        compare = krb5.krb5_principal_compare
        return next(number for number in NUMBERS if compare(context, holder, self.principals[number]))

    def _listed(self) -> list[int]:
        cursor, ccache = ctypes.c_void_p(), ctypes.c_void_p()
        call("krb5_cccol_cursor_new", ctypes.byref(cursor))
        numbers = []
        call("krb5_cccol_cursor_next", cursor, ctypes.byref(ccache))
        while ccache:
            numbers.append(self.names.index(name_of(ccache)))
            krb5.krb5_cc_close(context, ccache)
            call("krb5_cccol_cursor_next", cursor, ctypes.byref(ccache))
        call("krb5_cccol_cursor_free", ctypes.byref(cursor))
        return numbers

    def _found(self, number: int) -> int | None:
        ccache = ctypes.c_void_p()
        if krb5.krb5_cc_cache_match(context, self.principals[number], ctypes.byref(ccache)):
            return None
        found = self.names.index(name_of(ccache))
        krb5.krb5_cc_close(context, ccache)
        return found


def main() -> None:
    if krb5.krb5_init_context(ctypes.byref(context)):
        raise SystemExit("krb5_init_context failed")
    call("krb5_cc_set_default_name", COLLECTION)
    collection = Collection()
    for step in sys.argv[1:]:
        word, _, number = step.partition(":")
        collection.step(word, int(number))
        sys.stdout.write(json.dumps(collection.seen()) + "\n")


main()
