"""The KCM protocol: frames, requests, replies and what they carry.

Pure functions and frozen values: no I/O, no clock, no state but that of a stream's unfinished frame.
Who may ask and what an operation means is decided elsewhere.
"""
