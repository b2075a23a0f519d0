"""Hypothesis strategies for the tests of the protocol."""

from hypothesis import settings
from hypothesis import strategies as st

from tests.protocol.layouts import CredentialFields, TagFields, principal

# For examples that take long to make up.
fewer = settings(max_examples=40)

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
I16 = st.integers(-(2**15), 2**15 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
U8 = st.integers(0, 255)

blob = st.binary(max_size=40)
names = st.lists(st.integers(1, 255), max_size=40).map(bytes)
uuids = st.binary(min_size=16, max_size=16)
typed_lists = st.lists(st.tuples(U16, blob), max_size=2)

components = st.lists(blob, max_size=3)
principals = st.builds(
    lambda name_type, realm, parts: principal(realm, *parts, name_type=name_type), U32, blob, components
)

credentials = st.builds(
    CredentialFields,
    client=principals,
    server=principals,
    enctype=I16,
    key=blob,
    authtime=U32,
    starttime=U32,
    endtime=U32,
    renew_till=U32,
    is_skey=U8,
    flags=U32,
    addresses=typed_lists,
    authdata=typed_lists,
    ticket=blob,
    second_ticket=blob,
)

tags = st.builds(
    TagFields,
    client=st.none() | principals,
    server=st.none() | principals,
    keyblock=st.none() | st.tuples(I16, blob),
    authtime=U32,
    starttime=U32,
    endtime=U32,
    renew_till=U32,
    is_skey=U8,
    flags=U32,
    addresses=st.none() | typed_lists,
    authdata=st.none() | typed_lists,
    ticket=st.none() | blob,
    second_ticket=st.none() | blob,
)
