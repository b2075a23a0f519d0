"""The pages of `pykcmctl metrics --listen`: metrics, health, errors, and a daemon that is down."""

import asyncio
import errno

import pytest

from pykcm.cli import metrics_server
from pykcm.control.messages import ControlError, ErrorCode
from tests.cli.scraping import GET_HEALTH, Pages
from tests.control.parsing import parsed
from tests.server.waiting import until


async def test_metrics_are_openmetrics_text(pages: Pages) -> None:
    """Prometheus's parser accepts the page."""
    status, headers, body = await pages.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert int(headers["content-length"]) == len(body)
    assert headers["connection"] == "close"
    names = {family.name for family in parsed(body.decode())}
    assert {"pykcm_request_duration_seconds", "pykcm_commit_failures"} <= names
    assert (await pages.get("/metrics?all=1"))[0] == 200


async def test_head_is_get_without_the_body(pages: Pages) -> None:
    """HEAD has the headers of GET."""
    status, headers, body = await pages.get("/health", "HEAD")
    assert (status, headers["content-length"], body) == (200, "3", b"")


async def test_each_scrape_gets_a_new_answer(pages: Pages) -> None:
    """No answer is kept for a later scrape."""
    for asked in (1, 2, 3):
        assert f"\npykcm_ccaches {asked}\n".encode() in (await pages.get("/metrics"))[2]


async def test_waiting_scrapes_share_the_next_answer(pages: Pages) -> None:
    """All scrapes that come while the daemon is asked wait for one more answer."""
    pages.daemon.may_answer.clear()
    first = asyncio.ensure_future(pages.get("/metrics"))
    await until(lambda: pages.daemon.asked == 1)
    others = [asyncio.ensure_future(pages.get("/metrics")) for _ in range(10)]
    await pages.until_asked(11)
    pages.daemon.may_answer.set()
    assert b"\npykcm_ccaches 1\n" in (await first)[2]
    for each in others:
        assert b"\npykcm_ccaches 2\n" in (await each)[2]
    assert pages.daemon.asked == 2


async def test_daemon_is_asked_ten_times_a_second_at_most(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that scrapes without a pause does not keep the daemon busy."""
    pauses = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr(metrics_server, "_INTERVAL", 1000.0)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        await pages.get("/health")
        await pages.get("/health")
    assert 900 < pauses[-1] <= 1000


async def test_leaving_scraper_does_not_cancel_the_others_answer(pages: Pages) -> None:
    """The request to the daemon goes on for the scrapers that still wait."""
    pages.daemon.may_answer.clear()
    leaving = await pages.connect()
    leaving.send(GET_HEALTH)
    await until(lambda: pages.daemon.asked == 1)
    staying = asyncio.ensure_future(pages.get("/health"))
    await pages.until_asked(2)
    next(iter(pages.server.open)).abort()
    await pages.until_open(1)
    pages.daemon.may_answer.set()
    assert (await staying)[0] == 200
    leaving.close()


async def test_health_names_the_failing_part(pages: Pages) -> None:
    """The page is `ok`, or the name of the failing part and nothing else."""
    status, _, body = await pages.get("/health")
    assert (status, body) == (200, b"ok\n")
    pages.daemon.stats["failing"] = "store"
    status, _, body = await pages.get("/health")
    assert (status, body) == (503, b"store\n")


@pytest.mark.parametrize("target", ["/metrics", "/health"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "pykcmd does not run"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "pykcmd does not run"),
        (PermissionError(errno.EACCES, "Permission denied"), "docs/metrics.md"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "does not answer within"),
        (BlockingIOError(errno.EAGAIN, "Try again"), "does not answer within"),
        (ConnectionError("the daemon has ended the connection"), "has ended the connection"),
        (ControlError(ErrorCode.PERMISSION, "only root may use it"), "only root may use it"),
    ],
)
async def test_silent_daemon_is_503_with_the_reason(
    pages: Pages, target: str, error: Exception, text: str
) -> None:
    """The page says why the daemon does not answer; the next scrape is answered once it is back."""
    pages.daemon.error = error
    status, _, body = await pages.get(target)
    assert status == 503
    assert text in body.decode()
    assert body.decode().count("\n") == 1
    pages.daemon.error = None
    assert (await pages.get(target))[0] == 200


async def test_error_in_pykcm_is_500_and_logged(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    """The page says where to look, and nothing about the error."""
    pages.daemon.error = ValueError("secret")
    status, _, body = await pages.get("/metrics")
    assert status == 500
    assert b"secret" not in body
    assert "a scrape failed by an error in pykcm" in caplog.text


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/one\r\n\r\n", 400),
        (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\r\n\r\n", 400),
        (b"\0\0\0\x04\2\0\0\0\r\n\r\n", 400),
        (b"GET /metrics\xff HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"x" * 8192, 431),
        (b"x" * 9000, 431),
    ],
)
async def test_invalid_request_gets_an_error(pages: Pages, request_head: bytes, status: int) -> None:
    """An invalid request gets an error status; the next request is served."""
    assert (await pages.ask(request_head))[0] == status
    assert (await pages.get("/health"))[0] == 200


async def test_405_names_the_allowed_methods(pages: Pages) -> None:
    """HTTP demands the header Allow."""
    assert (await pages.get("/metrics", "DELETE"))[1]["allow"] == "GET, HEAD"
