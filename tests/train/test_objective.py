import torch

from sohes.structures import ModelOutput
from sohes.train.objective import part_of


def test_part_of_an_output_is_cut_in_every_layer():
    layer = ModelOutput(torch.arange(8.0).view(4, 1, 2), torch.zeros(4, 1, 2, 2), None)
    output = ModelOutput(layer.class_logits_BQ2, layer.mask_logits_BQhw, torch.zeros(4, 1, 1), (layer,))
    half = part_of(output, slice(2, None))
    assert half.class_logits_BQ2.tolist() == [[[4, 5]], [[6, 7]]]
    assert half.ancestor_logits_BQQ.shape == (2, 1, 1)
    assert half.auxiliary[0].mask_logits_BQhw.shape == (2, 1, 2, 2)
    assert half.auxiliary[0].ancestor_logits_BQQ is None
