"""Generate the parts of the man pages that describe options and commands, from the code."""

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from pykcm import command_line
from pykcm.cli import examples, main
from pykcm.renew import program

_HERE = Path(__file__).parent
_CONFIGURATION = _HERE.parent / "docs" / "configuration.md"

# An option in configuration.md: its heading, the line with default and valid values, and its paragraph.
_OPTION = re.compile(
    r"^### `(?P<name>\w+)`\n\n"
    r"Default: (?P<default>.*?)\. Value: (?P<allowed>.*)\.\n\n"
    r"(?P<meaning>.*(?:\n.+)*)\n",
    re.MULTILINE,
)


def documented_options() -> list[tuple[str, str, str, str]]:
    """The options in configuration.md: name, default, valid values and meaning, in Markdown."""
    text = _CONFIGURATION.read_text(encoding="utf-8")
    return _options_in(text)


def _options_in(text: str) -> list[tuple[str, str, str, str]]:
    return [
        (found["name"], found["default"], found["allowed"], found["meaning"])
        for found in _OPTION.finditer(text)
    ]


def configuration() -> str:
    """Every option of pykcm.toml in the groups of configuration.md, which may begin with paragraphs."""
    text = _CONFIGURATION.read_text(encoding="utf-8")
    groups = [part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:] if "\n### " in part]
    return "".join(_group(part) for part in groups)


def _group(text: str) -> str:
    title, _, rest = text.partition("\n")
    introduction = rest.partition("\n### ")[0]
    paragraphs = "".join(
        f"{_from_markdown(paragraph)}\n\n" for paragraph in introduction.strip().split("\n\n") if paragraph
    )
    options = "".join(
        f"{name}\n    {_from_markdown(' '.join(meaning.split()))}\n\n"
        f"    Default: {_from_markdown(default)}. Takes {_plain(allowed)}.\n\n"
        for name, default, allowed, meaning in _options_in(text)
    )
    return f"{title}\n{'~' * len(title)}\n\n{paragraphs}{options}"


def _from_markdown(text: str) -> str:
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return "".join(
        f"``{part}``" if number % 2 else _plain(part) for number, part in enumerate(text.split("`"))
    )


def _sentence(text: str) -> str:
    end = "" if text.endswith((".", "]")) else "."
    return f"{text[:1].upper()}{text[1:]}{end}"


def _plain(text: str) -> str:
    """The text with everything escaped that reStructuredText takes for markup."""
    # FILE:/ would become a link.
    return re.sub(r"([\\*`|_]|:(?=/))", r"\\\1", text)


def daemon_options() -> str:
    """The options of pykcmd."""
    return _options_of(command_line.parser())


def renewal_options() -> str:
    """The options of pykcm-renew."""
    return _options_of(program.parser())


def _options_of(parser: argparse.ArgumentParser) -> str:
    # argparse has no public way to list them.
    actions: list[argparse.Action] = parser._actions  # noqa: SLF001
    return "".join(_definition(*_of_argparse(action, parser.prog)) for action in actions)


def _of_argparse(action: argparse.Action, prog: str) -> tuple[str, str]:
    value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else "")
    if action.nargs != 0 and not value:
        value = action.dest.upper()
    text = (action.help or "").replace("%(prog)s", prog)
    return ", ".join(f"{name} {value}".rstrip() for name in action.option_strings), text


def _definition(names: str, text: str) -> str:
    if not text:
        raise ValueError(f"{names} has no help text")
    return f"``{names}``\n    {_sentence(_plain(' '.join(text.split())))}\n\n"


def control_options() -> str:
    """The options of pykcmctl itself, which precede the command."""
    with click.Context(main.cli, info_name="pykcmctl") as context:
        return "".join(_options(main.cli, context))


def commands() -> str:
    """Every command of pykcmctl: usage, help, options, and the text in man/commands/."""
    with click.Context(main.cli, info_name="pykcmctl") as outer:
        return "\n".join(_command(name, outer) for name in main.cli.list_commands(outer))


def _command(name: str, outer: click.Context) -> str:
    command = main.cli.get_command(outer, name)
    assert command is not None
    parts = [f"{name}\n{'~' * len(name)}\n\n", *_usage(command, name, outer)]
    more = _HERE / "commands" / f"{name}.rst"
    if more.exists():
        parts.append(more.read_text(encoding="utf-8"))
    return "".join(parts)


def _usage(command: click.Command, name: str, outer: click.Context) -> Iterator[str]:
    """How a command is used; behind a group each of its commands."""
    with click.Context(command, outer, info_name=name) as context:
        yield f"``pykcmctl {name} {' '.join(command.collect_usage_pieces(context))}``\n\n"
        yield _help(command.help or "")
        yield from _options(command, context)
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                member = command.get_command(context, each)
                assert member is not None
                yield from _usage(member, f"{name} {each}", context)


def command_examples() -> str:
    """The examples of every command of pykcmctl, as in its --help."""
    names = sorted(name for name in examples.EXAMPLES if name)
    return "".join(f"{name}\n{'~' * len(name)}\n\n{examples.man_text(name)}" for name in names)


def _help(text: str) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "".join(
        # As in click, a paragraph after \b keeps its line breaks.
        "::\n\n" + textwrap.indent(paragraph.lstrip("\b\n"), "    ") + "\n\n"
        if paragraph.startswith("\b")
        else f"{_plain(paragraph)}\n\n"
        for paragraph in paragraphs
    )


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context)
        # The command's help explains its arguments.
        if record is not None and (isinstance(parameter, click.Option) or record[1]):
            yield _definition(*record)


GENERATED: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "daemon options": daemon_options,
    "renewal options": renewal_options,
    "pykcmctl options": control_options,
    "commands": commands,
    "examples": command_examples,
}
