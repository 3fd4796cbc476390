"""Prefect flows: when and where the stages run. The settings stand here since Prefect reads them when imported."""

import os
from pathlib import Path

from sohes.work.surroundings import may_write, settle, temporary_home

settle()
if not may_write(Path.home() / ".prefect") and (_home := temporary_home()):
    os.environ.setdefault("PREFECT_HOME", str(_home / "prefect"))

# On a busy machine Prefect's temporary server takes half a minute to start; its own patience is shorter.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("DO_NOT_TRACK", "1")
