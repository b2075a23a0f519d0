"""Draw docs/request.svg: the way of a request through the folders of pykcm.

usage: python man/drawing.py

The drawing is made of the data below. A test compares the kept file with it, and the data with the code.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).resolve().parents[1] / "docs" / "request.svg"


class Step(NamedTuple):
    """A folder on the way: a module with a name that it defines, the work there, and the result passed on."""

    folder: str
    module: str
    name: str
    work: str
    passes: str


STEPS = (
    Step(
        "sockets", "sockets/event_loop.py", "EventLoop", "waits for sockets and calls their readers", "bytes"
    ),
    Step(
        "server", "server/client_socket.py", "ClientSocket", "collects a request; users take turns", "a frame"
    ),
    Step(
        "protocol", "protocol/messages.py", "arguments_reader", "checks lengths and types", "typed arguments"
    ),
    Step("peer", "peer/access.py", "Access", "decides by UID and SELinux label", "the collections to use"),
    Step("engine", "engine/engine.py", "Engine", "the UID's queue and its cached collection", "a collection"),
    Step("server", "server/operations.py", "OPERATIONS", "one function for each opcode", "calls"),
    Step("ccaches", "ccaches/collection.py", "Collection", "default, matching, quotas, expiry", "changes"),
    Step("engine", "engine/committer.py", "Committer", "changes of many requests, one commit", "secrets"),
    Step("store", "store/interface.py", "Store", "a transaction; durable, or a conflict", ""),
)

# Other users of the engine: a module with a name that it defines, and the work there.
USERS = (
    ("control/requests.py", "REQUESTS", "pykcmctl, pykcm-renew"),
    ("engine/reaper.py", "Reaper", "removes expired ccaches"),
)

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #222 }
.name { font-weight: 600 } .small { font-size: 12px; fill: #555 }
rect { fill: #eef3f8; stroke: #7893ad } .client { fill: #fff4df; stroke: #c99b3b }
path { fill: none; stroke: #555; stroke-width: 1.5 }
marker path { fill: #555; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .small { fill: #aaa } path { stroke: #aaa } marker path { fill: #aaa }
  rect { fill: #22303d; stroke: #5d7c99 } .client { fill: #40351d; stroke: #a98238 }
}"""

_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
_MARKER = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
)

_WIDTH, _LEFT, _BOX_WIDTH, _BOX_HEIGHT, _PITCH, _TOP = 800, 60, 400, 44, 70, 50
_REPLY, _SIDE = 30, 540


def drawing() -> str:
    """Return the SVG."""
    tops = [_TOP + _PITCH * (number + 1) for number in range(len(STEPS))]
    bottom = tops[-1] + _BOX_HEIGHT
    height = bottom + 30
    lines = [
        f'<svg {_NAMESPACE} viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">',
        "<title>The way of a request</title>",
        f"<style>{_STYLE}</style>",
        _MARKER,
        _text(_LEFT, 26, "The way of a request", "name"),
        *_box(
            _LEFT, _TOP, "a client: kinit, klist, ssh, a browser", "libkrb5 with KRB5CCNAME=KCM:", "client"
        ),
    ]
    passed = ["the KCM socket", *(step.passes for step in STEPS[:-1])]
    for step, top, data in zip(STEPS, tops, passed, strict=True):
        lines.append(_arrow(f"M{_LEFT + 60} {top - _PITCH + _BOX_HEIGHT}V{top}"))
        lines.append(_text(_LEFT + 70, top - 9, data, "small"))
        lines.extend(_box(_LEFT, top, step.module, f"{step.name}: {step.work}"))
    # The reply goes back from the bottom to the client.
    middle = _BOX_HEIGHT // 2
    lines.append(_arrow(f"M{_LEFT} {tops[-1] + middle}H{_REPLY}V{_TOP + middle}H{_LEFT}"))
    lines.append(
        f'<text class="small" transform="translate({_REPLY - 8} {(_TOP + bottom) // 2}) rotate(-90)" '
        'text-anchor="middle">the reply, when the changes are durable</text>'
    )
    engine = next(top for step, top in zip(STEPS, tops, strict=True) if step.name == "Engine")
    for number, (module, name, work) in enumerate(USERS):
        top = engine - _PITCH + 2 * number * _PITCH
        lines.extend(_box(_SIDE, top, module, f"{name}: {work}", width=_WIDTH - _SIDE - 10))
        lines.append(_arrow(f"M{_SIDE} {top + middle}H{_SIDE - 40}V{engine + middle}H{_LEFT + _BOX_WIDTH}"))
    return "\n".join([*lines, "</svg>", ""])


def _box(left: int, top: int, head: str, line: str, kind: str = "", width: int = _BOX_WIDTH) -> list[str]:
    css = f' class="{kind}"' if kind else ""
    return [
        f'<rect{css} x="{left}" y="{top}" width="{width}" height="{_BOX_HEIGHT}" rx="5"/>',
        _text(left + 10, top + 18, head, "name"),
        _text(left + 10, top + 36, line, "small"),
    ]


def _arrow(path: str) -> str:
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
