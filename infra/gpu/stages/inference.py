"""Images a second of the trained segmenter, from pixels to masks: letterbox, network, decode."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from infra.gpu.lab import Lab, Row, Rows, forget, gigabytes, network, pictures
from sohes.bench.decode import blob_logits
from sohes.evaluate.predict import segment_images
from sohes.model.build import Network
from sohes.model.network import AdaptedNetwork
from sohes.params import Params
from sohes.structures import ModelOutput


class Plausible(nn.Module):
    """Runs a network with random weights and answers with blobs, as a trained one finds them: noise decodes slowly."""

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.inner, self.params, self.backbone, self.seconds = inner, inner.params, inner.backbone, 0.0
        logits = blob_logits(inner.params.num_queries, inner.params.image_size // 4)
        self.on_gpu = inner.on_gpu
        self.register_buffer("logits_Qhw", logits.to(next(inner.parameters()).device))

    predict = AdaptedNetwork.predict

    def forward(self, images_B3HW: Tensor) -> ModelOutput:
        start = time.monotonic()
        output = self.inner(images_B3HW)
        if images_B3HW.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.monotonic() - start
        return replace(output, masks=self.logits_Qhw.expand(len(images_B3HW), -1, -1, -1))


def run(lab: Lab) -> Rows:
    """Sizes and batches in float32, as `sohes evaluate` and `sohes segment` run it, and under bf16 autocast."""
    params = lab.params("one-gpu")
    sizes = (64,) if lab.toy else (512, 1024)
    for side in sizes:
        model = Plausible(network(params, lab.device, image_size=side)).eval()
        for amp, images in ((False, 16), (True, 16), (False, 1), (True, 1)):
            if lab.left() < (1 if lab.toy else 2):
                return
            yield _row(lab, model, params, images=2 if lab.toy else images, amp=amp)
        del model
        forget(lab)


def _row(lab: Lab, model: Plausible, params: Params, *, images: int, amp: bool) -> Row:
    section = params.evaluate.model_copy(update={"batch_size": images})
    given = pictures(lab, images, model.params.image_size)
    named = {"what": f"{model.params.image_size} pixels, {'bf16' if amp else 'float32'}", "images_at_once": images}
    with torch.autocast(lab.device.type, torch.bfloat16, enabled=amp):
        list(segment_images(model, given, section, source="check"))
        forget(lab)
        model.seconds, count, masks, start = 0.0, 0, 0, time.monotonic()
        while not count or time.monotonic() - start < min(2.0, lab.left() / 4):
            found = list(segment_images(model, given, section, source="check"))
            count, masks = count + len(found), masks + sum(map(len, found))
        spent = time.monotonic() - start
    return {
        **named,
        "images_per_second": round(count / spent, 2),
        "network_share": round(model.seconds / spent, 3),
        "masks_per_image": round(masks / count, 1),
        "peak_gb": gigabytes(lab),
    }
