"""Opcodes, as in MIT's kcm.h and Heimdal's kcm_protos.h."""

from enum import IntEnum


class Opcode(IntEnum):
    """The numbers of operations on the wire; those from 13001 are MIT's extensions, 28001 is pykcm's."""

    NOOP = 0
    GET_NAME = 1
    RESOLVE = 2
    GEN_NEW = 3
    INITIALIZE = 4
    DESTROY = 5
    STORE = 6
    RETRIEVE = 7
    GET_PRINCIPAL = 8
    GET_CRED_UUID_LIST = 9
    GET_CRED_BY_UUID = 10
    REMOVE_CRED = 11
    SET_FLAGS = 12
    CHOWN = 13
    CHMOD = 14
    GET_INITIAL_TICKET = 15
    GET_TICKET = 16
    MOVE_CACHE = 17
    GET_CACHE_UUID_LIST = 18
    GET_CACHE_BY_UUID = 19
    GET_DEFAULT_CACHE = 20
    SET_DEFAULT_CACHE = 21
    GET_KDC_OFFSET = 22
    SET_KDC_OFFSET = 23
    ADD_NTLM_CRED = 24
    HAVE_NTLM_CRED = 25
    DEL_NTLM_CRED = 26
    DO_NTLM_AUTH = 27
    GET_NTLM_USER_LIST = 28
    GET_CRED_LIST = 13001
    REPLACE = 13002
    RENEW = 28001
