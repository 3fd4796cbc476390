import pytest
import torch

from sohes.losses.criterion import criterion
from sohes.structures import ModelOutput, Targets
from sohes.train.objective import losses_of, part_of


def test_part_of_an_output_is_cut_in_every_layer():
    layer = ModelOutput(torch.arange(8.0).view(4, 1, 2), torch.zeros(4, 1, 2, 2), None)
    output = ModelOutput(layer.class_logits_BQ2, layer.mask_logits_BQhw, torch.zeros(4, 1, 1), (layer,))
    half = part_of(output, slice(2, None))
    assert half.class_logits_BQ2.tolist() == [[[4, 5]], [[6, 7]]]
    assert half.ancestor_logits_BQQ.shape == (2, 1, 1)
    assert half.auxiliary[0].mask_logits_BQhw.shape == (2, 1, 2, 2)
    assert half.auxiliary[0].ancestor_logits_BQQ is None


def test_branches_go_through_the_network_once_and_each_has_its_own_loss(tiny):
    network, passes = tiny.network().eval(), []
    network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    shown = torch.zeros(1, 32, 32, dtype=torch.bool)
    shown[0, 4:20, 4:20] = True
    one = Targets(shown, torch.zeros(1, 1, dtype=torch.bool))
    none = Targets(shown[:0], torch.zeros(0, 0, dtype=torch.bool))
    first, second = torch.randn(2, 3, 32, 32), torch.randn(1, 3, 32, 32)
    branches = [
        (first, [one, none], tiny.loss),
        (second, [one], tiny.loss.model_copy(update={"no_object_weight": 0.5})),
    ]
    found = losses_of(network, branches, torch.Generator())
    assert passes == [3]
    for losses, (images, targets, loss) in zip(found, branches, strict=True):
        expected = criterion(network(images), targets, loss)
        assert float(losses["loss"].detach()) == pytest.approx(float(expected["loss"].detach()), rel=1e-5)
