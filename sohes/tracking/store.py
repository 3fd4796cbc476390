"""Where MLflow keeps its records: a database in the project's folder, or a server."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sohes.errors import SohesError, TemporaryError, chain
from sohes.project import Project
from sohes.tracking.place import correct_paths

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RECORDING = ("MLFLOW_TRACKING_URI", "SOHES_TRACKING")  # the variables that say whether and where
SILENCE = 2.0  # seconds without an answer after which we say what we are waiting for


def is_on() -> bool:
    """Whether anything is to be recorded."""
    return os.environ.get("SOHES_TRACKING", "on").lower() != "off"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's sqlite database; never one in a copy that DVC is going to remove."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Project(root).lasting.database.resolve()}"


def has_store(root: Path) -> bool:
    """False if the store is a sqlite file that is not there; MLflow's client would make it, also for who only reads."""
    file = database_file(tracking_uri(root))
    return file is None or file.exists()


def database_file(uri: str) -> Path | None:
    """The file of a sqlite store; None for a server."""
    kind, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if kind.startswith("sqlite") else None


def tracking_client(root: Path) -> MlflowClient:
    """MLflow's client for the store, quiet and impatient."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7 by default: minutes until a dead server is named
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        # They announce every table, and errors that become a sentence here. Importing mlflow resets their level.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        uri = tracking_uri(root)
        client = MlflowClient(uri, registry_uri=uri)
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            correct_paths(Project(root).lasting)  # after MLflow has brought an older database up to date
        return client


def experiment_id(client: MlflowClient, name: str, root: Path, tags: dict[str, str] | None = None) -> str:
    """The id of the experiment, which is made with these tags on first use.

    One that somebody has deleted stays in MLflow's trash, under another name: names there are taken, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)  # only so it can be renamed
            client.rename_experiment(found.experiment_id, f"{name} (deleted, {found.experiment_id})")
            client.delete_experiment(found.experiment_id)
        elif found is not None:
            return found.experiment_id
        tags = {**(tags or {}), "mlflow.experimentKind": "custom_model_development"}  # not a chatbot
        is_server = tracking_uri(root).startswith("http")  # it has a place for artifacts of its own
        files = None if is_server else Project(root).lasting.artifacts.resolve().as_uri()
        return client.create_experiment(name, artifact_location=files, tags=tags)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One process of the project at a time."""
    path = Project(root).lasting.state("tracking.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


@contextmanager
def store_errors(uri: str, *, reading: bool = False) -> Iterator[None]:
    """Turns whatever the store's client throws into one sentence; a line on stderr says if a server is slow to answer.

    reading: nothing is to be recorded, so the sentence names other remedies.
    """
    is_file = database_file(uri) is not None
    try:
        with nullcontext() if is_file else _waiting(f"MLflow at {without_secrets(uri)}"):
            yield
    except SohesError:
        raise
    except Exception as error:
        wrong = None if is_file or uri.startswith("http") else _wrong_address(error)
        reason = wrong[0] if wrong else first_line(error)
        fault = f"cannot {'read from' if reading else 'record in'} MLflow at {without_secrets(uri)} ({reason})"
        broken = is_file and "database is locked" not in reason
        if wrong:
            remedies = [wrong[1], "unset MLFLOW_TRACKING_URI for a local database"]
        elif broken:
            remedies = ["fix that file or its permissions", "name another store with MLFLOW_TRACKING_URI"]
        elif is_file:
            remedies = ["wait until the other process has done with it"]
        else:
            remedies = ["start that server", "unset MLFLOW_TRACKING_URI for a local database"]
        if not reading:
            remedies.append("set SOHES_TRACKING=off")
        raise (SohesError if broken or wrong else TemporaryError)(f"{fault}: {', or '.join(remedies)}") from error


def _wrong_address(error: Exception) -> tuple[str, str] | None:
    """Why the address of a database, as it stands, can reach none, and what to do; None if it might."""
    for link in chain(error):
        if isinstance(link, ModuleNotFoundError):
            remedy = "install it, or name one that is installed, as in postgresql+psycopg2://"
            return f"its driver {link.name} is not installed", remedy
        if type(link).__name__.startswith("Unsupported"):  # MLflow has a class for each of its stores
            return "MLflow knows no such address", "correct MLFLOW_TRACKING_URI, as in http://127.0.0.1:5000"
    return None


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """One line on stderr if the block takes long: some clients try for minutes without a word."""
    words = threading.Timer(SILENCE, print, [f"waiting for {what}"], {"file": sys.stderr, "flush": True})
    words.daemon = True
    words.start()
    try:
        yield
    finally:
        words.cancel()


def first_line(error: BaseException) -> str:
    """What went wrong, in a line; a client's retries and stack of causes are left out."""
    for link in chain(error):
        error = getattr(link, "orig", None) or error  # the driver's own, behind SQLAlchemy's and MLflow's
    lines = str(error).strip().splitlines()
    return without_secrets(lines[0].partition(" with exception HTTP")[0])[:300] if lines else type(error).__name__


def without_secrets(text: str) -> str:
    """The text with users, passwords and queries (which hold signatures) removed from its links."""
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", re.sub(r"//[^/@\s]+@", "//", text))
