"""Enctypes and ticket flags by name."""

# RFC 3961 and its successors, as IANA registers them; the names are MIT's.
_ENCTYPES = {
    1: "des-cbc-crc",
    3: "des-cbc-md5",
    16: "des3-cbc-sha1",
    17: "aes128-cts-hmac-sha1-96",
    18: "aes256-cts-hmac-sha1-96",
    19: "aes128-cts-hmac-sha256-128",
    20: "aes256-cts-hmac-sha384-192",
    23: "arcfour-hmac",
    24: "arcfour-hmac-exp",
    25: "camellia128-cts-cmac",
    26: "camellia256-cts-cmac",
}

# RFC 4120 §5.3 and its successors, from bit 0, which is the highest of 32; the letters are those of klist -f.
_FLAGS = {
    1: "F",  # forwardable
    2: "f",  # forwarded
    3: "P",  # proxiable
    4: "p",  # proxy
    5: "D",  # may-postdate
    6: "d",  # postdated
    7: "i",  # invalid
    8: "R",  # renewable
    9: "I",  # initial
    10: "A",  # pre-authenticated
    11: "H",  # hardware-authenticated
    12: "T",  # transited-policy-checked
    13: "O",  # ok-as-delegate
    16: "a",  # anonymous
}


def enctype_name(enctype: int) -> str:
    return _ENCTYPES.get(enctype, str(enctype))


def flag_names(flags: int) -> str:
    """Letters, as `klist -f` prints them."""
    return "".join([letter for bit, letter in _FLAGS.items() if flags >> (31 - bit) & 1])
