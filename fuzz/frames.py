"""Reading of all complete frames at once."""

from pykcm.protocol.framing import Frame, FrameReader


def all_frames(reader: FrameReader, data: bytes) -> list[Frame]:
    """Feed bytes to the reader, and return the complete frames; raises FramingError."""
    first = reader.take(data)
    return [] if first is None else [first, *iter(reader.next_frame, None)]
