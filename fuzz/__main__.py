"""Runs the targets in turn: see scripts/fuzz."""

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS

ROOT = Path(__file__).parents[1]
FOUND = ROOT / ".cache" / "fuzz"
CRASHES = Path(__file__).parent / "crashes"

# In bytes: more than any entry of the corpus, and room to repeat what is in it.
_LONGEST_INPUT = 8192
# One input may take so many seconds and MiB; the rest is a crash.
_OPTIONS = ("-timeout=10", "-rss_limit_mb=2048", f"-max_len={_LONGEST_INPUT}", "-print_final_stats=1")

EXIT_CRASHED = 1
EXIT_NOT_INSTALLED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.again:
        return _again(options.again)
    if (options.seconds is None) == (options.runs is None):
        _parser().error("either SECONDS, --runs N or --again FILE")
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is not installed (the extra `fuzz`; there are wheels for Linux on x86-64)")
        return EXIT_NOT_INSTALLED
    targets = options.targets or list(TARGETS)
    # In turn, and each by itself: a crash ends the process that has met it.
    if options.runs is None:
        limit = f"-max_total_time={max(1, options.seconds // len(targets))}"
    else:
        limit = f"-runs={options.runs}"
    crashed = [name for name in targets if not _fuzz(name, limit, options)]
    if crashed:
        print(f"fuzz: crashed: {', '.join(crashed)}")
        return EXIT_CRASHED
    print("fuzz: nothing crashed")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Throw made-up bytes at all that reads bytes from outside, and see that nothing breaks.",
    )
    parser.add_argument(
        "seconds", nargs="?", type=int, metavar="SECONDS", help="in all; each target has at least one"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="so many inputs for each target, however long")
    parser.add_argument(
        "--target",
        dest="targets",
        action="append",
        choices=list(TARGETS),
        help="this one, and others that are given so; otherwise all",
    )
    parser.add_argument(
        "--keep", action="store_true", help="add what reaches new code to the corpus in fuzz/corpus"
    )
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="run one input, of a target's crashes or corpus, once"
    )
    for name, folder, what in (
        ("--found", FOUND, "what reaches new code"),
        ("--crashes", CRASHES, "crashes"),
    ):
        parser.add_argument(
            name, type=Path, default=folder, metavar="FOLDER", help=f"where to put {what} (default: {folder})"
        )
    return parser


def _again(path: Path) -> int:
    """Run the input for the target that its folder is named after."""
    name = path.absolute().parent.name
    if name not in TARGETS:
        print(f"fuzz: {path}: not in a folder of a target ({', '.join(TARGETS)})")
        return 2
    accepted = TARGETS[name].attempt(path.read_bytes())
    print(f"fuzz: {name}: {'accepted' if accepted else 'refused as it should be'}")
    return 0


def _fuzz(name: str, limit: str, options: argparse.Namespace) -> bool:
    """Whether nothing crashed."""
    found, kept, saved = options.found / name, CORPUS / name, options.crashes / name
    for folder in (found, saved):
        folder.mkdir(parents=True, exist_ok=True)
    print(f"fuzz: {name}: {limit[1:]}", flush=True)
    before = set(saved.iterdir())
    ran = _atheris(name, limit, f"-artifact_prefix={saved}/", str(found), str(kept))
    if ran.returncode:
        print(ran.stdout)
        for path in sorted(set(saved.iterdir()) - before):
            print(f"fuzz: {name}: crashed; to repeat it: scripts/fuzz --again {shlex.quote(str(path))}")
        return False
    print(
        f"fuzz: {name}: {_units(ran.stdout)} inputs, nothing crashed; {len(list(found.iterdir()))} in {found}"
    )
    if options.keep:
        before = set(kept.iterdir())
        _atheris(name, "-merge=1", str(kept), str(found)).check_returncode()
        print(f"fuzz: {name}: {len(set(kept.iterdir()) - before)} new inputs in {kept}")
        shutil.rmtree(found)
    return True


def _atheris(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fuzz.one", name, *_OPTIONS, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        check=False,
    )


def _units(output: str) -> int:
    match = re.search(r"^stat::number_of_executed_units:\s*(\d+)$", output, re.MULTILINE)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    sys.exit(main())
