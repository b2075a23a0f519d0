"""The domain: collections, ccaches, credentials, quotas."""
