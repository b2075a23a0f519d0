"""Reading and changing collections: queues by UID, the cache of collections, commits, events, the reaper."""
