"""krb5.conf is read as libkrb5 reads it; the tests compare with libkrb5 itself."""

import ctypes
import ctypes.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.cli.profile import ProfileError, read_profile


class Refused:
    """The result of libkrb5 or of the parser for files that cannot be used."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def libkrb5() -> ctypes.CDLL:
    """MIT's library; Heimdal's does not have these functions."""
    try:
        library = ctypes.CDLL("libkrb5.so.3")
        library.profile_init_path  # noqa: B018 - whether it is there
    except (OSError, AttributeError):
        pytest.skip("MIT's libkrb5 is not here")
    return library


def value_of_libkrb5(library: ctypes.CDLL, files: str, name: str) -> bytes | Refused | None:
    """The value that libkrb5 finds in [libdefaults]."""
    profile = ctypes.c_void_p()
    if library.profile_init_path(files.encode(), ctypes.byref(profile)):
        return Refused()
    value = ctypes.c_char_p()
    library.profile_get_string(profile, b"libdefaults", name.encode(), None, None, ctypes.byref(value))
    found = value.value
    library.profile_release(profile)
    return found


def value_of_profile(files: str, name: str) -> bytes | Refused | None:
    try:
        found = read_profile(files.split(":"), Path).get("libdefaults", name)
    except ProfileError:
        return Refused()
    return None if found is None else found.value.encode("utf-8", "surrogateescape")


FILES = [
    "[libdefaults]\n a = b\n",
    "x\n [libdefaults]\n a=b",
    "[libdefaults]\na=b\n[realms]\nA = {\n kdc = x\n}\n[libdefaults]\na=c\n",
    '[libdefaults]*\n a = "KCM:\\n x" tail',
    "[libdefaults]\na =\n{\nb=c\n}\n",
    "[libdefaults]\na = {\n",
    "}\n",
    "[libdefaults]\n}\n",
    "[libdefaults\na=b",
    "[libdefaults] # x\na=b",
    "[libdefaults]  \na=b",
    "[libdefaults]\na b = c",
    "[libdefaults]\na",
    "[libdefaults]\n=b",
    "[libdefaults]\na* = c\na = d",
    "[libdefaults]\n a = b ; c # d",
    "[libdefaults]\n#a = b\n;a = c\n",
    "[libdefaults]\na = KCM:\r\n",
    "include /nonexistent\n",
    "includedir /nonexistent\n",
    " include /nonexistent\n[libdefaults]\na=b",
    "[libdefaults]\ninclude x\n",
    "[libdefaults]\na = {x\n",
    "[libdefaults]\na = { \n b = c\n}\na=d\n",
    "[libdefaults]\n a = \n\n b = c\n",
    "[libdefaults]\na=\n#x\n{\n}\na=q",
    "[libdefaults]\nx = {\n[foo]\n}\n",
    '[libdefaults]\na = "x\\qy\\"z" w',
    '[libdefaults]\na=""\n',
    "[ libdefaults ]\na=b",
    "[libdefaults]\na==b",
    "[libdefaults]\na={}\n",
    "[libdefaults]\nx={\n} # c\na=b",
    "",
]


@pytest.mark.parametrize("text", FILES)
def test_value_of_one_file_is_that_of_libkrb5(libkrb5: ctypes.CDLL, tmp_path: Path, text: str) -> None:
    """The value in one file, or the error, is the one that libkrb5 finds."""
    file = tmp_path / "krb5.conf"
    file.write_text(text)
    assert value_of_profile(str(file), "a") == value_of_libkrb5(libkrb5, str(file), "a")


LINES = st.sampled_from(
    [
        "[libdefaults]",
        "[libdefaults]*",
        "[realms]",
        "a = one",
        "a=two",
        "  a = three  ",
        'a = "four"',
        "a* = five",
        "b = {",
        "b =",
        "{",
        "}",
        "# a = six",
        "",
        "a",
        "include FOLDER/d/one.conf",
        "includedir FOLDER/d",
    ]
)


@given(st.lists(LINES, max_size=8), st.lists(LINES, max_size=8))
def test_value_of_any_two_files_is_that_of_libkrb5(
    libkrb5: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str]
) -> None:
    """The same holds for any two files in KRB5_CONFIG, and for files that they include."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "d").mkdir()
    (folder / "d/one.conf").write_text("[libdefaults]\na = included\n")
    (folder / "d/.hidden.conf").write_text("[libdefaults]\na = hidden\n")
    for name, lines in (("first", first), ("second", second)):
        (folder / name).write_text("\n".join(lines).replace("FOLDER", str(folder)))
    files = f"{folder}/first:{folder}/missing:{folder}/second"
    assert value_of_profile(files, "a") == value_of_libkrb5(libkrb5, files, "a")


@pytest.mark.parametrize(
    ("name", "included"),
    [
        ("plain", True),
        ("with-dash_1", True),
        ("a.conf", True),
        ("a b.conf", True),
        (".hidden.conf", False),
        ("a.conf~", False),
        ("a.rpmsave", False),
        ("a b", False),
    ],
)
def test_includedir_takes_the_files_that_libkrb5_takes(
    libkrb5: ctypes.CDLL, tmp_path: Path, name: str, included: bool
) -> None:
    """Backups and hidden files in an included folder are ignored."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / name).write_text("[libdefaults]\na = b\n")
    file = tmp_path / "krb5.conf"
    file.write_text(f"includedir {folder}\n")
    assert (
        value_of_profile(str(file), "a")
        == value_of_libkrb5(libkrb5, str(file), "a")
        == (b"b" if included else None)
    )


def test_files_of_includedir_are_read_in_order(libkrb5: ctypes.CDLL, tmp_path: Path) -> None:
    """The files of a folder are read in alphabetical order, and the first value wins."""
    folder = tmp_path / "d"
    folder.mkdir()
    for name in ("b", "a", "c"):
        (folder / name).write_text(f"[libdefaults]\na = {name}\n")
    file = tmp_path / "krb5.conf"
    file.write_text(f"includedir {folder}\n[libdefaults]\na = last\n")
    assert value_of_profile(str(file), "a") == value_of_libkrb5(libkrb5, str(file), "a") == b"a"
    found = read_profile([str(file)], Path).get("libdefaults", "a")
    assert found is not None
    assert (found.file, found.line) == (f"{folder}/a", 2)


def test_circular_include_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "krb5.conf"
    file.write_text(f"include {file}\n")
    with pytest.raises(ProfileError, match="includes itself"):
        read_profile([str(file)], Path)
