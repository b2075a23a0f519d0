"""A short run of the fuzzer itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.__main__ import main
from fuzz.targets import CORPUS, TARGETS

RUNS = 300
ROOT = Path(__file__).parents[2]

pytest.importorskip("atheris")


def fuzz(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_target_runs(tmp_path: Path) -> None:
    """Every target runs hundreds of generated inputs without a crash, and the corpus does not change."""
    found, crashes = tmp_path / "found", tmp_path / "crashes"
    before = sorted(CORPUS.rglob("*"))
    ran = fuzz("--found", str(found), "--crashes", str(crashes), "--runs", str(RUNS))
    assert ran.returncode == 0, ran.stdout
    for name in TARGETS:
        (line,) = (
            line
            for line in ran.stdout.splitlines()
            if line.startswith(f"fuzz: {name}: ") and "inputs" in line
        )
        assert int(line.split()[2]) >= RUNS
    assert not [path for path in crashes.rglob("*") if path.is_file()]
    assert sorted(CORPUS.rglob("*")) == before


def test_keep_adds_inputs_to_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--keep adds inputs that reach new code to the corpus, and they do not crash."""
    kept = tmp_path / "corpus" / "requests"
    kept.mkdir(parents=True)
    (kept / "seed").write_bytes(bytes(8))
    monkeypatch.setattr("fuzz.__main__.CORPUS", kept.parent)
    options = ["--target", "requests", "--keep", "--runs", "2000", "--found", str(tmp_path / "found")]
    assert main([*options, "--crashes", str(tmp_path / "crashes")]) == 0
    assert len(list(kept.iterdir())) > 1
    assert not (tmp_path / "found" / "requests").exists()
    for path in kept.iterdir():
        TARGETS["requests"].attempt(path.read_bytes())
