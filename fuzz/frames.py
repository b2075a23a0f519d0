"""All the frames that bytes complete, where one at a time is not what is tested."""

from pykcm.protocol.framing import Frame, FrameReader


def all_frames(reader: FrameReader, data: bytes) -> list[Frame]:
    """Have the reader take in bytes; the frames that are whole then. Raises FramingError."""
    first = reader.take(data)
    return [] if first is None else [first, *iter(reader.next_frame, None)]
