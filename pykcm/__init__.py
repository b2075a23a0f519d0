"""pykcm: a credential-cache server (KCM) for Kerberos."""

__version__ = "0.1.0"
