"""The KCM protocol: frames, requests, replies and their contents.

Pure functions and frozen values: no I/O, no clock, and no state except the unfinished frame of a stream.
Access and the meaning of operations are decided elsewhere.
"""
