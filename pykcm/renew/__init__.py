"""pykcm-renew: renews TGTs that are due, with libkrb5 and the network, which the daemon does not need."""
