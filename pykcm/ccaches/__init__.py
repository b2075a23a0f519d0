"""The domain: collections of ccaches of credentials. No I/O, no clock, no knowledge of who asks."""
