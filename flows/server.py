"""Prefect's server, as a flow finds it at its start."""

from __future__ import annotations

import logging
import os

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, PREFECT_HOME, temporary_settings

from sohes.errors import SohesError, TemporaryError, sentence_of
from sohes.work.surroundings import may_write

SECONDS = 5.0  # for an answer


def require_server() -> None:
    """SohesError unless the server that PREFECT_API_URL names answers as Prefect's API does.

    Without an address Prefect starts a temporary server, which needs a folder to write to.
    """
    url, home = PREFECT_API_URL.value(), PREFECT_HOME.value()
    if not url:
        if not may_write(home):
            raise SohesError(f"Prefect's temporary server cannot write to {home}: set PREFECT_HOME to another folder")
        return
    remedy = "start that server, or unset PREFECT_API_URL for a temporary one"
    wrong = SohesError(
        f"PREFECT_API_URL {url} is not the address of Prefect's API: it ends in /api, as in http://127.0.0.1:4200/api"
    )
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": SECONDS}) as client,
        ):
            client.api_version()
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise SohesError(f"Prefect at {url} refuses us ({status}): set PREFECT_API_AUTH_STRING") from None
        if status < 500:
            raise wrong from None
        raise TemporaryError(f"Prefect at {url} fails (status {status}): {remedy}") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError):  # ValueError: a page where JSON should be
        raise wrong from None
    except httpx.HTTPError as error:
        fault = str(error) or type(error).__name__
        raise TemporaryError(f"Prefect does not answer at {url} ({fault}): {remedy}") from None


def without_tracebacks() -> None:
    """Let Prefect log an error that has a sentence as that sentence alone; SOHES_DEBUG keeps the traceback.

    Likewise what its threads say when the server is gone, as at the end of a flow that is killed together with it.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_as_a_sentence)
    logging.getLogger("prefect._internal.concurrency").addFilter(_in_a_line)


def _as_a_sentence(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and sentence_of(error) is not None and not os.environ.get("SOHES_DEBUG"):
        record.exc_info = None
    return True


def _in_a_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not os.environ.get("SOHES_DEBUG"):
        said = record.getMessage().partition("(")[0].strip()  # what it was busy with takes a page
        record.msg, record.args, record.exc_info = "%s: %s", (said, str(error) or type(error).__name__), None
    return True
