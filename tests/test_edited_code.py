"""Unfinished work of older code is never published: an edited constant gives new masks, whatever waits in `.sohes/`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sohes.data.store.images import ImageStore
from sohes.data.store.labels import iter_records


def sohes(project: Path, *arguments: str) -> str:
    """Run a command with the code that lies in the project's folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "sohes", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def edit(file: Path, constant: str, value: str) -> None:
    text, count = re.subn(rf"^{constant} = [^ ]+", f"{constant} = {value}", file.read_text(), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text)


def rles(labels: Path) -> list:
    return [record.masks.rles for record in iter_records(labels)]


@pytest.mark.slow
def test_an_edited_constant_gives_new_masks(project, tiny_params):
    tiny_params["explore"] |= {"features": "handmade", "images_per_shard": 4}
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    (project / "models").mkdir(exist_ok=True)
    (project / "models/backbone.safetensors").write_bytes(b"not read by handmade features")
    commands = {
        "data/pseudo_labels": ["explore"],
        "predictions/explore": ["evaluate", "--phase", "explore"],
        "labels.parquet": ["label", "photos", "--out", "labels.parquet"],
    }
    sohes(project, "pull")
    store = ImageStore(project / "data/images")
    (project / "photos").mkdir()
    for image_id in store.image_ids[:2]:
        (project / f"photos/{image_id}.png").write_bytes(store.read_bytes(image_id))
    images = store.read(store.image_ids[0])
    for command in commands.values():
        sohes(project, *command)
    before = {place: rles(project / place) for place in commands}
    sohes(project, "pull", "--shard", "0")
    sohes(project, "explore", "--shard", "0")
    sohes(project, "evaluate", "--phase", "explore", "--shard", "0")
    assert sohes(project, "shards", "explore").strip() == "1"

    edit(project / "sohes/backbone/handmade.py", "SIGMA", "40.0")
    assert sohes(project, "shards", "explore").strip() == "0-1"
    for place, command in commands.items():
        sohes(project, *command)
        assert rles(project / place) != before[place], place

    edit(project / "sohes/data/scenes/render.py", "GRAIN", "40.0")
    sohes(project, "pull")
    assert (ImageStore(project / "data/images").read(store.image_ids[0]) != images).any()
