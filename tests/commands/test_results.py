"""All phases of a tiny project on a benchmark of three photographs, in COCO's official folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from packing import pack_images
from PIL import Image

from sohes.commands import results
from sohes.data.store.labels import export_coco
from sohes.errors import SohesError, TemporaryError
from sohes.masks import mask_set
from sohes.structures import ImageRecord


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photographs with one bright square each, which is annotated."""
    folder = tmp_path / "coco/val2017"
    folder.mkdir(parents=True)
    records, random = [], np.random.default_rng(0)
    for image_id in (1, 2, 3):
        drawn = np.zeros((1, 64, 96), bool)
        drawn[0, 16:56, 10 * image_id : 10 * image_id + 40] = True
        pixels = random.integers(0, 40, (64, 96, 3)) + 180 * drawn[0, :, :, None]
        name = f"{image_id:012}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        records.append(ImageRecord(image_id, name, "", mask_set(drawn)))
    export_coco(records, tmp_path / "coco/annotations/instances_val2017.json")
    return tmp_path / "coco"


@pytest.fixture
def folder(tiny_model: Path, tiny_params: dict, root: Path) -> Path:
    """A project whose three phases are done, trained on another photograph."""
    from sohes.backbone.checkpoint import save_backbone
    from sohes.model.checkpoint import load_checkpoint

    home = tiny_model.parents[1]
    for suffix in (".safetensors", ".json"):
        shutil.copy(tiny_model.with_suffix(suffix), tiny_model.with_name(f"instruct{suffix}"))
    save_backbone(load_checkpoint(tiny_model)[0].backbone, tiny_model.with_name("backbone.safetensors"), {})
    tiny_params["pull"]["source"] = "folder"
    (home / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    photo = home / "mine.png"
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(photo)
    train_on(photo, home)
    return home


def train_on(photo: Path, home: Path) -> None:
    pack_images(
        [(7, "mine.png", photo.read_bytes())],
        home / "data/images",
        images_per_shard=4,
        max_megapixels=1,
        apply_exif=True,
        max_rejected_fraction=0,
    )


def test_one_page_with_every_phase_and_what_it_gains(folder, root, tmp_path, monkeypatch):
    out = tmp_path / "docs/results.md"
    results.results([f"coco={root}"], project=[str(folder)], out=out)
    page = out.read_text()
    assert f"sohes results \\\n  coco={root} \\\n  --project {folder} \\\n  --out {out}\n" in page
    assert "### coco: 3 photographs, 3 annotated entities" in page
    assert "None of these photographs was used in training." in page
    assert "- Trained on 1 photographs." in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "", "phase 1, pseudo-labels", "phase 2", "phase 3", "phase 2 minus phase 1, pseudo-labels",
        "phase 3 minus phase 2",
    ]  # fmt: skip
    assert "| 93.3 (90.0 to 100.0) |" in rows[1]  # phase 1 finds the bright square
    assert "+0.0 (+0.0 to +0.0)" in rows[5]  # the same weights

    def never(*_: object) -> None:
        raise AssertionError("what is predicted is predicted again")

    monkeypatch.setattr(results, "make_predictor", never)
    results.results([f"coco={root}"], project=[str(folder)], out=out)
    assert out.read_text() == page


def test_shards_of_another_size_are_not_taken_over(folder, root, tmp_path, tiny_params):
    for images_per_shard in (2, 1):  # the second cut has one shard more
        tiny_params["evaluate"] = {**tiny_params["evaluate"], "images_per_shard": images_per_shard}
        (folder / "params.yaml").write_text(yaml.safe_dump(tiny_params))
        results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / f"{images_per_shard}.md")
    assert (tmp_path / "1.md").read_text().replace("1.md", "2.md") == (tmp_path / "2.md").read_text()


def test_what_was_trained_on_is_not_scored(folder, root, tmp_path):
    train_on(root / "val2017/000000000002.png", folder)
    results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "**Not scored**: 1 of 3 photographs were used in training" in page
    assert "| phase 2 |" not in page


def test_a_second_project_says_in_which_params_it_differs(folder, root, tmp_path, tiny_params, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(folder / "models", other / "models")
    tiny_params["evaluate"] = {**tiny_params["evaluate"], "refiner": "none"}
    (other / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    results.results([f"coco={root}"], project=[str(folder), str(other)], out=tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert f"differ from those of `{folder}` in `evaluate.refiner: none`." in page
    assert "Unknown whether these photographs were used in training" in page
    assert "begun with" not in page
    tiny_params["instruct"] = {**tiny_params["instruct"], "start": "small"}
    (other / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    monkeypatch.setattr(results, "LISTED", 0)
    results.results([f"coco={root}"], project=[f"The demo={folder}", str(other)], out=tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert f"## The demo: `{folder}`\n" in page
    assert f"## Project `{other}`\n" in page
    assert "differ from those of The demo in 2 keys." in page
    assert "images in phase 2, begun with `small`, " in page


def test_files_of_a_project_are_looked_for_in_it(folder, root, tmp_path, tiny_params, monkeypatch):
    """Wherever the command runs."""
    tiny_params["instruct"] = {**tiny_params["instruct"], "start": "models/correct.safetensors"}
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    asked = []
    monkeypatch.setattr(results.label_free, "of_model", lambda labels, backbone, start: asked.append(start))
    results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
    assert asked == [folder / "models/correct.safetensors"]


def test_phases_that_have_not_been_run_are_left_out_by_name(folder, root, tmp_path):
    def titles() -> list[str]:
        results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
        rows = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| ")]
        return [row.split("|")[1].strip() for row in rows[1:]]

    (folder / "models/correct.safetensors").unlink()
    assert titles() == ["phase 1, pseudo-labels", "phase 2", "phase 2 minus phase 1, pseudo-labels"]
    assert "in phase 2. Phase 3 has not been run." in (tmp_path / "page.md").read_text()
    (folder / "models/instruct.safetensors").unlink()
    assert titles() == ["phase 1, pseudo-labels"]
    assert "- No network: phase 2 and phase 3 have not been run." in (tmp_path / "page.md").read_text()


def test_what_is_missing_is_one_sentence(folder, root, tmp_path):
    with pytest.raises(SohesError, match="no benchmark is called kitti"):
        results.results([f"kitti={root}"], project=[str(folder)], out=tmp_path / "page.md")
    with pytest.raises(SohesError, match=r"NAME=DIR, such as coco=~/coco \(got coco\)"):
        results.results(["coco"], project=[str(folder)], out=tmp_path / "page.md")
    (folder / "models/backbone.safetensors").unlink()
    with pytest.raises(SohesError, match="run `sohes backbone` first"):
        results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize("place", ["models/instruct.safetensors", "val2017/000000000002.png"])
def test_a_page_on_what_changed_meanwhile_is_not_written(folder, root, tmp_path, monkeypatch, place):
    summarise = results.evaluate_masks

    def change_meanwhile(*arguments, **options):
        path = next(home / place for home in (folder, root) if (home / place).exists())
        path.touch()
        return summarise(*arguments, **options)

    monkeypatch.setattr(results, "evaluate_masks", change_meanwhile)
    with pytest.raises(SohesError, match=f"{place} changed while results ran"):
        results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
    assert len(list((folder / ".sohes/results").iterdir())) == 3  # each named after all that it has seen


def test_what_lies_beside_the_photographs_may_change(folder, root, tmp_path, monkeypatch):
    scored = results.evaluate_masks

    def download(*arguments, **options):
        for name in ("train2017.zip.part", "notes.txt", "train2017/000000000009.jpg"):
            (root / name).parent.mkdir(exist_ok=True)
            with (root / name).open("a") as file:
                file.write("more of it")
        return scored(*arguments, **options)

    (root / "train2017.zip.part").write_text("a part of it")
    monkeypatch.setattr(results, "evaluate_masks", download)
    results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
    assert (tmp_path / "page.md").exists()


@pytest.mark.parametrize("place", ["models/instruct.safetensors", "val2017/000000000002.png"])
def test_no_shard_stays_that_may_have_seen_another_model_or_photograph(folder, root, tmp_path, monkeypatch, place):
    """What it is named after may come back."""
    make = results.make_predictor

    def change_meanwhile(phase, *arguments):
        predictor = make(phase, *arguments)
        if phase == "instruct":
            path = next(home / place for home in (folder, root) if (home / place).exists())
            path.write_bytes(path.read_bytes() + b" ")
        return predictor

    monkeypatch.setattr(results, "make_predictor", change_meanwhile)
    with pytest.raises(
        TemporaryError, match=r"(a model of .*|2\.png in .*/coco) changed while results ran: run the same"
    ):
        results.results([f"coco={root}"], project=[str(folder)], out=tmp_path / "page.md")
    left = {path.name.rpartition("-")[0]: path for path in (folder / ".sohes/results").iterdir()}
    assert left.keys() >= {"coco-explore"}
    assert not list(left.get("coco-instruct", tmp_path / "none").glob("parts/*.json"))
