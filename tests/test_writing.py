"""The sentences of the documents: short, and with a subject that is named."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "man/*.rst", "man/commands/*.rst")
    for path in ROOT.glob(pattern)
)

# The goal is 25 words. A path or an option counts as one.
MOST_WORDS = 30

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_TARGET = re.compile(r"\]\([^)]*\)")
_CODE = re.compile(r"``[^`]*``|`[^`]*`")
# A list item or a cell of a table begins a new text; headings are no sentences.
_TEXT_END = re.compile(r"\n\s*\n|\n\s*(?=[-*|] |\d+\. )| \| |\|$", re.MULTILINE)
_HEADING = re.compile(r"^#+ .*$|^.*\n[=~-]{3,}$", re.MULTILINE)
_NOUN_CLAUSE = re.compile(r"[\W_]*(?:What|Who|Whoever|Whatever|Whichever|So)\b")


def sentences(text: str) -> Iterator[str]:
    """Yield each sentence and each clause behind a colon or semicolon, with `x` in place of code."""
    for pattern, replacement in (
        (_FENCED, ""),
        (_INDENTED, ""),
        (_HEADING, ""),
        (_TARGET, "]"),
        (_CODE, "x"),
    ):
        text = pattern.sub(replacement, text)
    for part in _TEXT_END.split(text):
        yield from re.split(r"(?<=[.?!:;])[*)]*\s+", " ".join(part.split()))


def long_sentences(text: str) -> list[str]:
    return [each for each in sentences(text) if len(each.split()) > MOST_WORDS]


def noun_clauses(text: str) -> list[str]:
    return [each for each in sentences(text) if _NOUN_CLAUSE.match(each) and "?" not in each]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_are_short(document: str) -> None:
    """No sentence of a document has more than 30 words."""
    assert long_sentences((ROOT / document).read_text()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_name_their_subject(document: str) -> None:
    """No sentence of a document begins with a clause in place of a noun, except a question."""
    assert noun_clauses((ROOT / document).read_text()) == []


def test_long_sentences_are_found() -> None:
    """A sentence over line ends is found; code, links, list items and table cells do not add up to one."""
    words = " ".join(["word"] * MOST_WORDS)
    assert long_sentences(f"{words}\nmore.") == [f"{words} more."]
    assert long_sentences(f"{words}: more.\n\n    {words} {words}\n") == []
    assert long_sentences(f"- {words[5:]}\n- {words[5:]}\n\n| {words[10:]} | {words[10:]} |\n") == []
    assert long_sentences(f"{words[5:]} `{words}`") == []


def test_noun_clauses_are_found() -> None:
    """A clause in place of a noun is found in paragraphs, lists and tables, but not in headings."""
    assert noun_clauses("# What is kept\n\nStored. What is sent\nis stored. What is sent?\n") == [
        "What is sent is stored."
    ]
    assert noun_clauses("- **Whoever asks** gets it.\n") == ["- **Whoever asks** gets it."]
    assert noun_clauses("| One | Who asks gets it. |\n") == ["Who asks gets it."]
