"""pykcm: a credential-cache server (KCM) for Kerberos."""

__version__ = "0.2.0"
