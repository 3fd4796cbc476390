import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sohes
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.predictor import as_pixels

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def predictor(tiny_model):
    return sohes.load(tiny_model)


def same(a, b) -> bool:
    equal = np.array_equal(a.scores, b.scores) and np.array_equal(a.parents, b.parents)
    return a.found.rles == b.found.rles and equal


def test_importing_sohes_imports_nothing_heavy():
    heavy = ["torch", "mlflow", "cv2", "matplotlib", "numpy", "pydantic"]
    code = f"import sohes, sys; sohes.load; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_says_its_version_and_has_types(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    assert sohes.__version__ == project["project"]["version"]
    assert (Path(sohes.__file__).parent / "py.typed").exists()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["sohes"]
    with pytest.raises(AttributeError, match="no attribute 'verzion'"):
        _ = sohes.verzion


def test_array_file_and_pillow_image_give_the_same_masks(predictor, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    result = predictor.segment(IMAGE)
    assert len(result) > 0
    assert result.masks.shape[1:] == IMAGE.shape[:2]
    assert set(result.found.sources) == {"correct"}
    assert same(result, predictor.segment(tmp_path / "photo.png"))
    assert same(result, predictor.segment(str(tmp_path / "photo.png")))
    assert same(result, predictor.segment(Image.fromarray(IMAGE)))


def test_many_come_in_order_each_with_its_own_photograph(predictor):
    photos = [IMAGE, IMAGE[::-1].copy(), IMAGE[:20]]
    results = list(predictor.segment_many(photos))
    assert all(np.array_equal(r.image, p) for r, p in zip(results, photos, strict=True))
    assert same(results[2], predictor.segment(photos[2]))


def test_an_array_that_is_used_again_for_the_next_photograph_is_no_matter(predictor):
    frame = IMAGE.copy()

    def frames():
        yield frame
        frame[:] = IMAGE[::-1]
        yield frame

    first, second = predictor.segment_many(frames())
    assert same(first, predictor.segment(IMAGE))
    assert same(second, predictor.segment(IMAGE[::-1].copy()))


def test_an_error_comes_after_the_results_before_it(predictor, tmp_path):
    """Though the next photograph is read while the network is still busy with one."""
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    found = predictor.segment_many([IMAGE, IMAGE, tmp_path / "torn.png", IMAGE])
    assert len([next(found), next(found)]) == 2
    with pytest.raises(UnreadableImage):
        next(found)


def test_an_array_of_several_is_several(predictor):
    results = list(predictor.segment_many(np.stack([IMAGE, IMAGE[::-1]])))
    assert len(results) == 2
    assert same(results[0], predictor.segment(IMAGE))


def test_it_can_be_pickled(predictor):
    assert same(pickle.loads(pickle.dumps(predictor)).segment(IMAGE), predictor.segment(IMAGE))


def test_the_params_file_says_which_masks_are_kept(tiny_model, tiny_params, tmp_path):
    import yaml

    tiny_params["evaluate"]["max_masks"] = 2
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(tiny_params))
    assert len(sohes.load(tiny_model, params=tmp_path / "few.yaml").segment(IMAGE)) == 2


@pytest.mark.parametrize("wrong", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[:0]])
def test_what_is_no_photograph_is_refused(wrong):
    with pytest.raises(ValueError, match="uint8 RGB"):
        as_pixels(wrong)


@pytest.mark.parametrize(
    ("sides", "reason"), [((8, 65_501), "too long: 65501 x 8"), ((1001, 1000), "too large: 1000 x 1001")]
)
def test_an_array_is_refused_as_its_file_is_but_for_the_least_side(sides, reason, monkeypatch):
    monkeypatch.setattr("sohes.predictor.MAX_MEGAPIXELS", 1)
    with pytest.raises(UnreadableImage, match=reason):
        as_pixels(np.zeros((*sides, 3), np.uint8))
    assert as_pixels(IMAGE[:1]).shape[0] == 1


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P", "L", "1"])
def test_a_pillow_image_has_the_pixels_of_its_file(mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.dstack([IMAGE, IMAGE[..., :1]])).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "photo.png")
    assert np.array_equal(as_pixels(image), as_pixels(tmp_path / "photo.png"))


@pytest.mark.parametrize(
    ("mode", "size", "colour", "reason"),
    [
        ("F", (16, 16), 0.5, "floating-point pixels"),
        ("I", (16, 16), 70_000, "integer pixels from 70000"),
        ("RGB", (7, 16), 0, "too small: 7 x 16"),
        ("L", (1000, 1001), 0, "too large: 1000 x 1001"),
    ],
)
def test_a_pillow_image_is_refused_as_its_file_is(mode, size, colour, reason, monkeypatch):
    monkeypatch.setattr("sohes.predictor.MAX_MEGAPIXELS", 1)
    with pytest.raises(UnreadableImage, match=reason):
        as_pixels(Image.new(mode, size, colour))


def test_a_missing_model_or_photograph_is_one_sentence(predictor, tmp_path):
    # Words for the shell and for Python.
    with pytest.raises(
        SohesError, match=r"no trained model at nope: name a \.safetensors file .*`sohes segment --explore`"
    ):
        sohes.load("nope")
    with pytest.raises(SohesError, match=r"\. is not a \.safetensors model"):
        sohes.load(".")
    with pytest.raises(SohesError, match="no such photograph"):
        predictor.segment(tmp_path / "absent.jpg")


@pytest.mark.parametrize(
    ("wrong", "told"), [(None, "None"), (b"\xff\xd8", "xd8"), pytest.param(bytes(100), "bytes", id="long"), (7, "7")]
)
def test_what_is_neither_file_nor_image_is_one_sentence(predictor, wrong, told):
    with pytest.raises(SohesError, match=rf"\(got .*{told}'?\): for the bytes of a file, give PIL"):
        predictor.segment(wrong)


@pytest.mark.parametrize(
    "one", ["cat.jpg", b"cat", Path("cat.jpg"), None, IMAGE, IMAGE[..., 0], IMAGE[:2, :1, :1], Image.fromarray(IMAGE)]
)
def test_one_photograph_is_not_several(predictor, one):
    with pytest.raises(SohesError, match=r"several photographs \(got .*\): give it a list"):
        next(predictor.segment_many(one))


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_here_is_one_sentence(predictor, device):
    with pytest.raises(SohesError, match=rf"no device {device} \(.*\): name cpu, or a GPU"):
        predictor.to(device)
    assert len(predictor.to("cpu").segment(IMAGE)) > 0
