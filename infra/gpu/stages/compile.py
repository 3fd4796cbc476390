"""Phase 2's step with torch.compile, which takes a minute or more to compile."""

from __future__ import annotations

from infra.gpu.lab import Lab, Rows
from infra.gpu.pace import tflop_per_image
from infra.gpu.stages.training import row


def run(lab: Lab) -> Rows:
    """The one-gpu model at the batch of the stage `training`."""
    work = tflop_per_image(lab.params("one-gpu"))
    yield row(lab, "one-gpu", work, seconds=min(5, lab.left() / 3), watch=False, compile=True)
