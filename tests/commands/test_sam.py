"""SAM with random weights of a few kilobytes, through the same command as the real one."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sohes.commands import sam, score
from sohes.data.store.labels import export_coco, read_shard
from sohes.errors import SohesError
from sohes.evaluate.sam import make_sam
from sohes.masks import areas, mask_set
from sohes.structures import ImageRecord

# What random weights say of their masks means nothing, so nearly everything is kept.
SETTINGS = {"points_per_side": 3, "points_per_batch": 8, "pred_iou": -100.0, "stability": 0.0}


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "output_channels": 16,
        "window_size": 2,
        "global_attn_indexes": [0],
        "num_pos_feats": 8,
        "mlp_dim": 16,
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16,
               "iou_head_hidden_dim": 16, "iou_head_depth": 2}  # fmt: skip
    folder = tmp_path_factory.mktemp("sam")
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    with contextlib.redirect_stderr(io.StringIO()):  # it shows progress bars
        SamModel(config).save_pretrained(folder)
        SamProcessor(
            SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
        ).save_pretrained(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """Three photographs of COCO's val2017 of two sizes: more than a shard holds."""
    monkeypatch.setattr(sam, "IMAGES_PER_SHARD", 2)
    records = [
        ImageRecord(i, f"{i:012}.png", "", mask_set(np.ones((1, 40, 60) if i % 2 else (1, 60, 40), bool)))
        for i in range(1, 4)
    ]
    export_coco(records, tmp_path / "coco/annotations/instances_val2017.json")
    (tmp_path / "coco/val2017").mkdir()
    random = np.random.default_rng(0)
    for record in records:
        pixels = random.integers(0, 255, (record.masks.height, record.masks.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "coco/val2017" / record.file_name)
    return tmp_path / "coco"


def test_every_image_gets_masks_of_its_own_size_and_score_takes_them(tiny_sam, root, tmp_path):
    out = tmp_path / "sam"
    assert sam.sam(tiny_sam, benchmark="coco", root=root, out=out, **SETTINGS) == 3
    records = [r for path in sorted(out.glob("*.parquet")) for r in read_shard(path)]
    assert [r.image_id for r in records] == list(range(1, 4))
    assert all((r.masks.height, r.masks.width) == ((40, 60) if r.image_id % 2 else (60, 40)) for r in records)
    assert any(len(r.masks) and areas(r.masks).max() > 0 for r in records)
    assert {source for r in records for source in r.masks.sources} == {"sam"}
    assert score.score([out], benchmark="coco", root=root)["masks_per_image"] > 0


def test_a_stopped_run_goes_on_and_another_runs_folder_is_refused(tiny_sam, root, tmp_path):
    out = tmp_path / "sam"
    sam.sam(tiny_sam, benchmark="coco", root=root, out=out, **SETTINGS)
    kept, redone = out / "shard-00000.parquet", out / "shard-00001.parquet"
    before, written = kept.stat().st_mtime_ns, redone.read_bytes()
    redone.unlink()
    sam.sam(tiny_sam, benchmark="coco", root=root, out=out, **SETTINGS)
    assert kept.stat().st_mtime_ns == before
    assert redone.read_bytes() == written
    with pytest.raises(SohesError, match="holds the masks of another run"):
        sam.sam(tiny_sam, benchmark="coco", root=root, out=out, **{**SETTINGS, "stability": 0.5})


def test_nothing_that_is_sure_enough_is_an_empty_set(tiny_sam):
    segment = make_sam(tiny_sam, device="cpu", **{**SETTINGS, "pred_iou": 100.0})
    assert len(segment(np.zeros((40, 60, 3), np.uint8))) == 0


def test_a_folder_without_sam_is_one_sentence(tmp_path):
    with pytest.raises(SohesError, match="no SAM at"):
        make_sam(tmp_path, device="cpu", **SETTINGS)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SohesError, match="cannot be used for mask generation"):
        make_sam(tmp_path, device="cpu", **SETTINGS)


def test_a_run_that_cannot_start_claims_no_folder(root, tmp_path):
    with pytest.raises(SohesError, match="no SAM at"):
        sam.sam(tmp_path / "absent", benchmark="coco", root=root, out=tmp_path / "sam", **SETTINGS)
    assert not (tmp_path / "sam").exists()
