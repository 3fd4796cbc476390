import io

import cv2
import numpy as np
import pytest
import yaml
from packing import pack_images
from PIL import Image

from sohes import masks
from sohes.commands import view_batch
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore, write_shard
from sohes.errors import SohesError
from sohes.params import load_params
from sohes.structures import ImageRecord
from sohes.train.dataset import LabelDataset
from sohes.train.loading import stage_seed


@pytest.fixture
def params(repository):
    params = load_params(repository / "params.yaml")
    model = params.model.model_copy(update={"image_size": 96})
    return params.model_copy(update={"model": model})


@pytest.fixture
def project(tmp_path, params, monkeypatch):
    """The working folder: four photographs with a whole and its part; the labels of one are for another size."""
    shown = np.zeros((2, 60, 80), bool)
    shown[0, 10:50, 20:70], shown[1, 20:40, 30:50] = True, True
    files, records = [], []
    for image_id in range(4):
        image = np.random.default_rng(image_id).integers(0, 255, (60, 80, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append((image_id, f"{image_id}.png", file.getvalue()))
        found = masks.mask_set(shown[:, :50] if image_id == 2 else shown, parents=[-1, 0])
        records.append(ImageRecord(image_id, f"{image_id}.png", "", found))
    data = tmp_path / "data"
    pack_images(files, data / "images", images_per_shard=4, max_megapixels=1, apply_exif=False, max_rejected_fraction=0)
    (data / "pseudo_labels").mkdir()
    write_shard(data / "pseudo_labels/shard-00000.parquet", records)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_picture_shows_the_very_samples_of_the_training(project, params, capsys):
    out = project / "deep/batch.png"
    view_batch.view_batch(out=out, step=3, samples=4)
    drawn = cv2.cvtColor(cv2.imread(str(out)), cv2.COLOR_BGR2RGB)
    section = params.instruct
    dataset = LabelDataset(
        ImageStore(project / "data/images"), LabelStore(project / "data/pseudo_labels"), image_size=96,
        max_targets=section.max_targets, augment=section.augment, normalisation=((0,) * 3, (1,) * 3),
        batch_size=section.batch_size, seed=stage_seed(params.seed, "instruct"),
    )  # fmt: skip
    first = dataset.sample_for(3, 0)
    assert np.array_equal(drawn[:96, :96], first.shown.image_HW3)
    assert drawn.shape[1] == 5 * 96 + 4 * 8  # the image, the forest, three levels
    assert not np.array_equal(drawn[:96, 104:200], first.shown.image_HW3)
    assert "passed over image 2: the labels are for 50 x 80 pixels" in capsys.readouterr().err


def test_without_labels_the_stage_to_run_is_named(project):
    (project / "data/pseudo_labels").rename(project / "gone")
    with pytest.raises(SohesError, match="run `sohes explore` first"):
        view_batch.view_batch(out=project / "batch.png")
