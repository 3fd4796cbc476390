import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows import server
from sohes.errors import SohesError, TemporaryError

# Prefect uses what its dependencies have deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def answers() -> Iterator[tuple[str, dict]]:
    """The address of a server, and what it answers: a status by path, a page where none is given."""
    status: dict[str, int] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            page = b"<html>a page</html>"
            self.send_response(status.get(self.path, 200))
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", status
        running.shutdown()
        thread.join()


def refusal(url: str) -> SohesError:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(SohesError) as caught:
        server.require_server()
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_server_that_is_down_may_come_back():
    error = refusal("http://127.0.0.1:9/api")
    assert isinstance(error, TemporaryError)
    assert str(error).startswith("Prefect does not answer at http://127.0.0.1:9/api (")
    assert "start that server, or unset PREFECT_API_URL" in str(error)


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "ftp://127.0.0.1/api"])
def test_what_is_no_address_says_what_one_looks_like(url):
    error = refusal(url)
    assert not isinstance(error, TemporaryError)
    assert "it ends in /api, as in http://127.0.0.1:4200/api" in str(error)


def test_a_server_that_is_not_prefects_api_is_told_from_one_that_is_ill(answers):
    url, status = answers
    assert "is not the address of Prefect's API" in str(refusal(url))  # a page, such as Prefect's own without /api
    status["/admin/version"] = 404
    assert "is not the address of Prefect's API" in str(refusal(url))
    status["/admin/version"] = 401
    assert "set PREFECT_API_AUTH_STRING" in str(refusal(url))
    status["/admin/version"] = 503
    assert isinstance(refusal(url), TemporaryError)


def test_a_proxy_does_not_hide_a_server_on_this_machine(answers, monkeypatch):
    from sohes.work.surroundings import settle

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    settle()
    assert "is not the address of Prefect's API" in str(refusal(answers[0]))  # it was reached


def test_a_temporary_server_needs_a_folder_to_write_to():
    with (
        temporary_settings({PREFECT_HOME: "/proc/nowhere"}, restore_defaults={PREFECT_API_URL}),
        pytest.raises(SohesError, match="cannot write to /proc/nowhere: set PREFECT_HOME"),
    ):
        server.require_server()


@pytest.mark.usefixtures("prefect_server")
def test_prefects_own_server_answers():
    server.require_server()


@pytest.mark.parametrize(
    ("error", "debug", "shown"),
    [(SohesError("fill it"), "", False), (SohesError("fill it"), "1", True), (RuntimeError("a bug"), "", True)],
)
def test_prefect_logs_a_sentence_without_the_way_to_it(monkeypatch, caplog, error, debug, shown):
    monkeypatch.setenv("SOHES_DEBUG", debug)
    logger = logging.getLogger("prefect.flow_runs")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "handlers", [])  # Prefect's, which want a server
    monkeypatch.setattr(logger, "propagate", True)
    server.without_tracebacks()
    try:
        raise error
    except Exception:
        logger.exception("the flow failed: %s", error)
    (record,) = caplog.records
    assert record.getMessage() == f"the flow failed: {error}"
    assert bool(record.exc_info) is shown


@pytest.mark.parametrize(("debug", "shown"), [("", False), ("1", True)])
def test_prefects_threads_say_in_a_line_that_the_server_is_gone(monkeypatch, caplog, debug, shown):
    monkeypatch.setenv("SOHES_DEBUG", debug)
    logger = logging.getLogger("prefect._internal.concurrency")
    for name, value in (("filters", []), ("handlers", []), ("propagate", True)):
        monkeypatch.setattr(logger, name, value)
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    server.without_tracebacks()
    try:
        raise ConnectionError("connection refused")
    except ConnectionError:
        logger.exception("Service 'EventsWorker' failed to process item Event(%s)", "x" * 3000)
    (record,) = caplog.records
    assert bool(record.exc_info) is shown
    if not shown:
        assert record.getMessage() == "Service 'EventsWorker' failed to process item Event: connection refused"
