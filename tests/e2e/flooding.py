"""The attacking programs of the benchmark, for the tests."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.build import build
from bench.processes import BenchError

from .conftest import USER
from .daemon import LIMIT, Pykcmd

# The number of credentials in the ccache that the flood lists.
LISTED = 500


def built(name: str) -> Path:
    """Compile the program, or skip the test."""
    try:
        return build(name)
    except BenchError as error:
        pytest.skip(f"{name} cannot be built: {error}")


@contextmanager
def flooding(pykcmd: Pykcmd, connections: int) -> Iterator[None]:
    """USER floods the daemon with STOREs, GET_CRED_LISTs and half requests."""
    process = subprocess.Popen(
        [
            *(str(built("flood")), "-t", str(10 * LIMIT), "-c", str(connections), "-k", "slh"),
            *("-n", str(LISTED), "-u", str(USER), str(pykcmd.socket_path)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"flooding\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
