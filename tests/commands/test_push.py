from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub import TOKEN, Hub, serving_hub
from PIL import Image

import sohes
from sohes.commands.push import push, shared_card
from sohes.errors import SohesError
from sohes.model.readme import readme
from sohes.model.released import model_file, read_card
from sohes.project import Project
from sohes.work.files import write_json

# huggingface-hub 2.4 uploads in a way that its own HTTP client warns about.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving_hub(monkeypatch) as hub:
        yield hub


def put(model: Path | str, to: str, **options: object) -> None:
    push(str(model), to, **{"data": None, "licence": None, "private": False, **options})


def metadata(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_what_is_pushed_is_loaded_elsewhere(hub: Hub, tiny_model: Path, capsys: pytest.CaptureFixture) -> None:
    put(tiny_model, "hf://me/cups", data="900 photographs of cups", licence="apache-2.0")
    assert 'sohes.load("hf://me/cups")' in capsys.readouterr().out
    (files,) = hub.repositories["me/cups"]
    assert sorted(files) == ["README.md", "model.json", "model.safetensors"]
    assert files["model.safetensors"] == tiny_model.read_bytes()
    card, own = json.loads(files["model.json"]), json.loads(tiny_model.with_suffix(".json").read_text())
    assert card == own | {"data": "900 photographs of cups", "licence": "apache-2.0"}
    told = files["README.md"].decode()
    assert metadata(told)["license"] == "apache-2.0"
    assert "900 photographs of cups." in told
    loaded = sohes.load("hf://me/cups").segment(IMAGE)
    assert loaded.found.rles == sohes.load(tiny_model).segment(IMAGE).found.rles
    assert not hub.private


def test_a_second_push_is_a_second_commit(hub: Hub, tiny_model: Path) -> None:
    put(tiny_model, "hf://me/cups", private=True)
    put("small", "hf://me/cups")
    first, second = hub.repositories["me/cups"]
    assert first["model.safetensors"] != second["model.safetensors"] == model_file("small").read_bytes()
    assert hub.private == {"me/cups"}
    put("small", "hf://me/public")
    with pytest.raises(SohesError, match="hf://me/public is there already, and public"):
        put(tiny_model, "hf://me/public", private=True)
    assert len(hub.repositories["me/public"]) == 1
    told = second["README.md"].decode()
    assert "949 photographs of ImageNet" in told
    of_coco = read_card(model_file("small"))["figures"]["coco_panoptic"]
    all_of_them, small_ones = ("{} ({} to {})".format(*of_coco[name]) for name in ("AR", "AR_S"))
    assert f"| coco_panoptic | 100 | {all_of_them} | {small_ones} |" in told
    assert "Unknown: the card names none" in told
    assert "license" not in metadata(told)


@pytest.mark.parametrize(("claim", "word"), [(True, "yes"), (False, "no"), (None, "unknown")])
def test_a_readme_says_what_the_card_says_and_no_more(claim: bool | None, word: str) -> None:
    told = readme({"label_free": claim}, "hf://me/cups", "cups")
    assert f"**Label-free:** {word}. " in told
    assert "The card does not say which images." in told
    assert "The card has no figures." in told
    assert told.startswith("---\nlibrary_name: sohes\n")
    assert readme({"figures": {"mine": {"AR": 12.34, "images": 3}}}, "x", "x").endswith("trained it.\n")
    assert "| mine | 3 | 12.3 |  |  |  |" in readme({"figures": {"mine": {"AR": 12.34, "images": 3}}}, "x", "x")


def test_a_project_tells_what_it_knows_of_its_own_model(tiny_model: Path) -> None:
    """`models/correct.safetensors` in a project; scores that are older than it are another model's."""
    project = Project(tiny_model.parent.parent)
    assert "figures" not in shared_card(tiny_model)
    assert "label_free" not in shared_card(tiny_model)
    write_json(project.pseudo_labels / "manifest.json", {"label_free": False})
    row = {"AR": 30.25, "AR_S": 1.0, "AR_M": 2.0, "AR_L": None, "AP": 9.0, "images": 4, "masks_per_image": 7.5}
    write_json(project.metrics("evaluate"), {"correct": row})
    write_json(project.card("instruct"), {"params": {"instruct": None}})  # as another version might write it
    card = shared_card(tiny_model)
    assert card["label_free"] is False
    assert card["figures"]["held-out images"]["AR"] == 30.25
    later = time.time() + 60
    os.utime(tiny_model, (later, later))
    assert "figures" not in shared_card(tiny_model)
    elsewhere = project.root / "copy.safetensors"
    elsewhere.write_bytes(tiny_model.read_bytes())
    elsewhere.with_suffix(".json").write_text(tiny_model.with_suffix(".json").read_text())
    assert shared_card(elsewhere) == read_card(elsewhere)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("me/cups", "me/cups is no model on the hub: write hf://ORG/MODEL"),
        ("hf://cups", "is no model on the hub"),
        ("hf://me/cups@main", "is pushed to hf://ORG/MODEL"),
        ("hf://me/cups/best.safetensors", "is pushed to hf://ORG/MODEL"),
    ],
)
def test_a_place_that_is_none_is_refused(to: str, words: str, tiny_model: Path) -> None:
    with pytest.raises(SohesError, match=words):
        put(tiny_model, to)


def test_a_model_that_nobody_could_load_is_not_pushed(hub: Hub, tiny_model: Path) -> None:
    tiny_model.write_bytes(tiny_model.read_bytes()[:-4] + b"abcd")
    with pytest.raises(SohesError, match="not the file that its card describes"):
        put(tiny_model, "hf://me/cups")
    assert hub.requests == []


def test_who_is_not_logged_in_is_told_how(hub: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(SohesError, match=r"cannot push to hf://me/cups \(.*401.*\): .*`hf auth login`") as told:
        put(tiny_model, "hf://me/cups")
    assert "hf_of_nobody" not in str(told.value)
    assert hub.repositories == {}


def test_on_the_command_line(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    """From one shell to another, with nothing between them but the hub."""
    Image.fromarray(IMAGE).save(tmp_path / "cat.png")
    of_hub = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **of_hub, "HF_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "sohes", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "pushed to" in run("push", str(tiny_model), "hf://me/cups")
    assert "cat.json" in run("segment", "cat.png", "--model", "hf://me/cups", "--out", "there")
    run("segment", "cat.png", "--model", str(tiny_model), "--out", "here")
    assert (tmp_path / "there/cat.json").read_text().replace('"model"', '"correct"') == (
        tmp_path / "here/cat.json"
    ).read_text()
