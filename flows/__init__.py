"""Prefect flows: when and where the stages run. The settings stand here since Prefect reads them when imported."""

import os
from pathlib import Path

from sohes.errors import SohesError, require_package
from sohes.work.surroundings import may_write, settle, temporary_home

settle()
try:
    for _name in ("prefect", "dvc"):
        require_package(_name)
except SohesError as error:  # its modules are commands, which end in a sentence
    raise SystemExit(f"sohes: {error}") from None

if not may_write(Path.home() / ".prefect") and (_home := temporary_home()):
    os.environ.setdefault("PREFECT_HOME", str(_home / "prefect"))

# On a busy machine Prefect's temporary server takes half a minute to start; its own patience is shorter.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

QUIET = {  # nothing that we start calls home; infra/docker/Dockerfile has the same
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages ask amplitude.com for settings, whatever we set
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
