"""Records what a trained teacher says of held-out scenes: `teacher_scores.npz`, which test_recorded_scores.py reads.

python tests/train/record_teacher_scores.py PROJECT      (a folder in which `make demo` has run)

For every query of 32 held-out scenes whose mask has a cell: `scores` (class probability x mean mask probability inside
the mask), `areas` (of the mask, as a fraction of the scene) and `ious` (the best with an annotated entity, both as
cells of the mask map). The scenes are squares of the size that the network sees. What is committed is of `make demo`
at 700 and 100 steps, AR 37.3.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from sohes.data.imaging import letterbox_size
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.masks import decode
from sohes.model.checkpoint import load_checkpoint

SCENES = 32
OUT = Path(__file__).with_name("teacher_scores.npz")


def letterbox_masks(masks_NHW: np.ndarray, side: int) -> np.ndarray:
    """(N, side, side) bool: the cells of the letterboxed square of which a mask covers at least half."""
    h, w = letterbox_size(*masks_NHW.shape[1:], side)
    squares = np.zeros((len(masks_NHW), side, side), bool)
    for mask, square in zip(masks_NHW, squares, strict=True):
        square[:h, :w] = cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA) >= 0.5
    return squares


@torch.inference_mode()
def record(project: Path) -> dict[str, np.ndarray]:
    network, _ = load_checkpoint(project / "models/correct.safetensors")
    store, labels = ImageStore(project / "data/eval"), LabelStore(project / "data/eval/labels")
    found: dict[str, list[np.ndarray]] = {"scores": [], "areas": [], "ious": []}
    for image_id in store.image_ids[:SCENES]:
        output = network.eval()(network.backbone.normalise([store.read(image_id)]))
        logits_QP = output.mask_logits_BQhw[0].flatten(1)
        inside_QP = logits_QP > 0
        cells_Q = inside_QP.sum(1)
        scores_Q = output.class_logits_BQ2[0].softmax(-1)[:, 0] * (logits_QP.sigmoid() * inside_QP).sum(1) / cells_Q
        truth_TP = letterbox_masks(decode(labels.record(image_id).masks), output.mask_logits_BQhw.shape[-1])
        truth_TP = truth_TP.reshape(len(truth_TP), -1).astype(np.float32)
        kept = (cells_Q > 0).numpy()
        masks_KP = inside_QP.numpy()[kept].astype(np.float32)
        shared_KT = masks_KP @ truth_TP.T
        union_KT = masks_KP.sum(1)[:, None] + truth_TP.sum(1) - shared_KT
        found["scores"].append(scores_Q.numpy()[kept])
        found["areas"].append(masks_KP.mean(1))
        found["ious"].append((shared_KT / union_KT).max(1))
    return {name: np.concatenate(parts).astype(np.float16) for name, parts in found.items()}


if __name__ == "__main__":
    np.savez_compressed(OUT, **record(Path(sys.argv[1])))
    print(f"wrote {OUT}")
