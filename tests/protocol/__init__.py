"""Tests of pykcm.protocol: what the wire format promises, and that nothing on the wire can do harm."""
