import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import ablations
from flows.ablate import run
from sohes.errors import SohesError

TABLE = {
    "title": "Coverage", "source": "a paper", "phase": "explore", "baseline": "high",
    "rows": {
        "low": {"set": {"explore.theta_cover": 0.6}, "paper": {"relations_changed": 9}},
        "high": {"set": {"explore.theta_cover": 0.9}, "paper": {"relations_changed": 0}},
        "CRM": {"set": {"explore.refiner": "crm"}, "paper": {"relations_changed": 1}},
    },
}  # fmt: skip


def sohes(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOHES_TRACKING": "on", "SOHES_WORKERS": "1", "SOHES_CRM": "~/nowhere"}
    command = [sys.executable, "-m", "sohes", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def test_an_unknown_table_or_row_is_one_sentence(repository):
    with pytest.raises(SohesError, match="no table 'table-99'"):
        next(run("table-99", repository / "params.yaml", repository))
    with pytest.raises(SohesError, match="table table-3 has no row 'phase 9'"):
        next(run("table-3", repository / "params.yaml", repository, row="phase 9"))


@pytest.mark.slow
def test_rows_share_what_they_can_and_the_flow_computes_nothing_again(
    project, tiny_params, read_artifact, monkeypatch, caplog
):
    (project / "params/ablations").mkdir(parents=True)
    (project / "params/ablations/cover.yaml").write_text(yaml.safe_dump(TABLE))
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    first = sohes("ablate", "cover", cwd=project)
    assert first.stdout.splitlines()[0].startswith("high: AR ")
    assert first.stdout.splitlines()[1].startswith("CRM: left out, CRM's weights are not at ~/nowhere: fetch")
    assert first.stderr.count("Running stage 'pull'") == 1
    assert first.stderr.count("Running stage 'backbone'") == 1
    assert first.stderr.count("Running stage 'evaluate'") == 2

    shutil.rmtree(project / ".sohes/ablations")
    again = sohes("ablate", "cover", cwd=project)
    assert "Running stage" not in again.stderr
    assert [line.endswith("(recorded before)") for line in again.stdout.splitlines()] == [True, False, True]
    told = sohes("compare", "cover", cwd=project).stdout

    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.setenv("SOHES_CRM", "~/nowhere")
    assert ablations.main(["cover", "--root", str(project)]) == 0
    said = [record.getMessage() for record in caplog.records if record.name.startswith("prefect")]
    assert not any("Running stage" in line for line in said)
    assert sum(line.endswith("(recorded before)") for line in said) == 2
    assert read_artifact("cover") in told
    (low,) = (line for line in told.splitlines() if line.startswith("| low |"))
    assert " 0.6 |" in low
    assert "CRM" not in told
    assert (project / "reports/ablations/cover.png").exists()
