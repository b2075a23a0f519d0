"""Reading a record of system calls."""

from pathlib import Path

from tests.disk.record import Accepted, Closed, Opened, Received, read_record


def test_descriptor_can_be_used_again_before_its_close_ends(tmp_path: Path) -> None:
    """A connection that gets a file's descriptor keeps it when the file's close ends in another thread."""
    record = tmp_path / "record"
    name = "".join(f"\\x{byte:02x}" for byte in bytes(tmp_path / "pykcm.db-wal"))
    record.write_text(
        f'11 openat(AT_FDCWD, "{name}", O_WRONLY|O_CLOEXEC) = 9\n'
        "11 close(9 <unfinished ...>\n"
        "10 accept4(3, NULL, NULL, SOCK_CLOEXEC) = 9\n"
        "11 <... close resumed>)             = 0\n"
        '10 recvfrom(9, "\\x61", 1, 0, NULL, NULL) = 1\n'
        "10 close(9)                         = 0\n"
    )
    assert list(read_record(record, tmp_path)) == [
        Opened(9, "pykcm.db-wal", may_make=False),
        Closed(9),
        Accepted(9),
        Received(9, b"a"),
        Closed(9),
    ]
