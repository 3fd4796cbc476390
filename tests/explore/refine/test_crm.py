"""With weights that the tests make, under the names of the released file: the file itself is its authors' to give."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models import resnet50

from sohes.errors import SohesError
from sohes.explore.refine import make_refiner
from sohes.explore.refine.crm import CrmNetwork, load_crm, load_network, refine_window
from sohes.explore.refine.network import RELEASES
from sohes.masks.packed import pack

NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture(autouse=True)
def _nothing_remembered():
    load_crm.cache_clear()
    yield
    load_crm.cache_clear()


def released_shapes() -> dict[str, tuple[int, ...]]:
    """What the released file holds. Its encoder is a ResNet-50 with the mask as a fourth channel, and no classifier."""
    encoder = {name: tuple(x.shape) for name, x in resnet50().state_dict().items() if not name.startswith("fc.")}
    shapes = {f"feats.{name}": shape for name, shape in encoder.items()} | {"feats.conv1.weight": (64, 4, 7, 7)}
    for level, seen, kept in (("128", 64, 64), ("256", 256, 64), ("1024", 1024, 128)):
        shapes[f"aspp_.aspp1_{level}.atrous_conv.weight"] = (kept, seen, 1, 1)
        shapes |= {f"aspp_.aspp1_{level}.bn.{x}": (kept,) for x in NORM}
        shapes |= {f"aspp_.bn1_{level}.{x}": (kept,) for x in NORM}
    shapes["aspp_.last_conv.0.weight"] = (256, 256, 3, 3)
    shapes |= {f"aspp_.last_conv.1.{x}": (256,) for x in NORM}
    for layer, (seen, kept) in enumerate([(262, 32), (32, 32), (32, 32), (32, 32), (32, 1)]):
        shapes |= {f"imnet.layers.{2 * layer}.weight": (kept, seen), f"imnet.layers.{2 * layer}.bias": (kept,)}
    return shapes


def save(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    return path


def random_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in released_shapes().items():
        fan_in = int(np.prod(shape[1:])) or 1
        weights[name] = torch.randn(shape, generator=generator) / fan_in**0.5
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.5
    return weights


def weights_that_pass_the_mask_on() -> dict[str, Tensor]:
    """Zero but for one path: the mask, through the first map of the encoder, to the answer."""
    weights = {name: torch.zeros(shape) for name, shape in released_shapes().items()}
    for name, tensor in weights.items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.fill_(1)
    weights["feats.conv1.weight"][0, 3, 3, 3] = 1
    weights["aspp_.aspp1_128.atrous_conv.weight"][0, 0] = 1
    weights["aspp_.last_conv.0.weight"][0, 0, 1, 1] = 1
    for layer in range(4):
        weights[f"imnet.layers.{2 * layer}.weight"][0, 0] = 1
    weights["imnet.layers.8.weight"][0, 0] = 20
    weights["imnet.layers.8.bias"][0] = -10
    return weights


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> CrmNetwork:
    return load_network(save(tmp_path_factory.mktemp("crm") / "random", random_weights()))


def test_the_encoder_is_a_dilated_resnet_with_the_released_weights(network: CrmNetwork) -> None:
    reference = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    reference.conv1 = torch.nn.Conv2d(4, 64, 7, 2, 3, bias=False)
    encoder = {name.removeprefix("feats."): x for name, x in random_weights().items() if name.startswith("feats.")} | {
        f"fc.{name}": x for name, x in reference.fc.state_dict().items()
    }
    reference.load_state_dict(encoder)
    x = torch.randn(1, 4, 72, 104)
    with torch.inference_mode():
        first = reference.relu(reference.bn1(reference.conv1(x)))
        second = reference.layer1(reference.maxpool(first))
        expected = [first, second, reference.layer3(reference.layer2(second))]
        found = network.encoder(x)
    assert [features.shape[1] for features in found] == [64, 256, 1024]
    assert found[2].shape[-2:] == (9, 13)
    for features, reference_features in zip(found, expected, strict=True):
        torch.testing.assert_close(features, reference_features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("cells", "size"), [((4, 6), (8, 12)), ((3, 5), (11, 7)), ((1, 2), (3, 3)), ((6, 6), (6, 4))])
def test_a_pixel_is_the_mixture_of_what_its_four_cells_say(
    network: CrmNetwork, cells: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = torch.randn(1, 256, *cells, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(size)
    with torch.inference_mode():
        for row in range(size[0]):
            for column in range(size[1]):
                place = [(2 * row + 1) / size[0] - 1, (2 * column + 1) / size[1] - 1]
                lower = [
                    int(np.floor((i + 0.5) * n / pixels - 0.5 + 1e-9))
                    for i, n, pixels in zip((row, column), cells, size, strict=True)
                ]
                answers, areas = [], []
                for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    cell = [min(max(a + b, 0), n - 1) for a, b, n in zip(lower, corner, cells, strict=True)]
                    centre = [(2 * c + 1) / n - 1 for c, n in zip(cell, cells, strict=True)]
                    offset = [(p - c) * n for p, c, n in zip(place, centre, cells, strict=True)]
                    side = [2 / pixels * n for pixels, n in zip(size, cells, strict=True)]
                    seen = torch.cat([features[0, :, cell[0], cell[1]], torch.tensor([*offset, *place, *side])])
                    answers.append(float(network.decoder(seen)))
                    areas.append(abs(offset[0] * offset[1]) + 1e-9)
                mixed = np.dot(answers, areas[::-1]) / sum(areas)  # a cell weighs as much as the far one is far
                expected[row, column] = 1 / (1 + np.exp(-mixed))
        found = network.decode(network.project(features), size)
        monkeypatch.setattr("sohes.explore.refine.crm.PIXELS_AT_ONCE", 1)
        row_by_row = network.decode(network.project(features), size)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(row_by_row, found)


def test_maps_are_fused_strip_by_strip_as_they_would_be_whole(
    network: CrmNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(2)
    image, mask = torch.randn(1, 3, 50, 70, generator=generator), torch.rand(1, 1, 50, 70, generator=generator)
    with torch.inference_mode():
        found = network.encoder(torch.cat([image, mask], 1))
        narrow = [level(features) for level, features in zip(network.levels, found, strict=True)]
        wide = [interpolate(x, size=(25, 35), mode="bilinear", align_corners=True) for x in narrow]
        expected = network.project(network.fuse(torch.cat(wide, 1)))
        for rows in (1, 7, 25, 64):
            monkeypatch.setattr("sohes.explore.refine.crm.STRIP", rows)
            torch.testing.assert_close(network.encode(image, mask), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "scales"),
    [((20, 30), [1.0]), ((100, 170), [1.0]), ((180, 390), [0.5, 1.0]), ((850, 40), [0.25, 0.5, 1.0])],
)
def test_the_mask_goes_in_again_at_each_larger_scale(
    network: CrmNetwork, size: tuple[int, int], scales: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' evaluation: 32 mirrored pixels round it, ImageNet's normalisation, a mask of -1 to 1."""
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    drawn = np.zeros(size, np.uint8)
    drawn[size[0] // 4 : size[0] // 2, size[1] // 3 :] = 255

    def border(x: np.ndarray) -> np.ndarray:  # mirrored again and again where the window is smaller than the border
        return np.pad(x, ((32, 32), (32, 32), (0, 0)) if x.ndim == 3 else 32, mode="reflect")

    seen = (border(image) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    seen = torch.from_numpy(seen).float().permute(2, 0, 1)[None]
    first_mask = torch.from_numpy(border(drawn) / 127.5 - 1).float()

    def passes() -> Tensor:
        mask = first_mask
        for scale in scales:
            shape = [round(side * scale) for side in mask.shape]
            given = [interpolate(x, size=shape, mode="bilinear", align_corners=True) for x in (seen, mask[None, None])]
            mask = 2 * network.decode(network.encode(*given), tuple(mask.shape)) - 1
        return mask

    network = copy.deepcopy(network)
    bias = network.decoder[-1].bias
    with torch.inference_mode():
        for _ in range(3):  # so that a random network says yes to one half of the pixels
            bias -= torch.logit((passes()[32:-32, 32:-32] + 1) / 2).median()
        mask = passes()

    sizes: list[tuple[int, ...]] = []
    encode = network.encode

    def spy(image_13HW: Tensor, mask_11HW: Tensor) -> Tensor:
        sizes.append(tuple(mask_11HW.shape[-2:]))
        return encode(image_13HW, mask_11HW)

    monkeypatch.setattr(network, "encode", spy)
    refined = refine_window(network, image, drawn)
    assert sizes == [tuple(round(side * scale) for side in mask.shape) for scale in scales]
    expected = mask[32:-32, 32:-32].numpy()
    sure = np.abs(expected) > 1e-4  # elsewhere rounding decides
    np.testing.assert_array_equal(refined[sure], (expected > 0)[sure])
    assert 0.05 < refined.mean() < 0.95
    assert sure.mean() > 0.9


def test_a_network_that_passes_the_mask_on_changes_nothing_but_its_edge(tmp_path: Path) -> None:
    network = load_network(save(tmp_path / "crm", weights_that_pass_the_mask_on()))
    drawn = np.zeros((150, 230), np.uint8)
    drawn[30:90, 40:160] = drawn[100:150, 180:230] = 255
    refined = refine_window(network, np.random.default_rng(0).integers(0, 256, (150, 230, 3), np.uint8), drawn)
    assert refined.dtype == bool
    assert np.mean(refined != (drawn > 0)) < 0.02  # the encoder sees every other pixel
    tiny = refine_window(network, np.zeros((5, 3, 3), np.uint8), np.full((5, 3), 255, np.uint8))
    assert tiny.shape == (5, 3)
    assert tiny.all()
    assert not refine_window(network, np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8)).any()


def test_it_is_a_refiner_that_knows_human_masks(
    drawn: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RELEASES["crm"].variable, str(save(tmp_path / "crm", weights_that_pass_the_mask_on())))
    refiner = make_refiner("crm", patch=8)
    assert not refiner.label_free
    refined = refiner.refine(np.zeros((80, 200, 3), np.uint8), pack(drawn, size=(80, 200))).unpacked()
    assert np.abs(refined.sum((1, 2)) - drawn.sum((1, 2))).max() < 200
    assert not refined[2].any()


def test_a_file_that_is_not_the_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crm"
    weights = {name: torch.zeros(shape) for name, shape in released_shapes().items()}
    broken: list[tuple[object, str]] = [
        ({name: x for name, x in weights.items() if name != "imnet.layers.8.bias"}, "decoder.8.bias is missing"),
        (weights | {"imnet.layers.8.bias": torch.zeros(3)}, "rror"),
        ([1, 2], "list"),
    ]
    for content in (b"access denied", b"status 404", b"Rar!", b"crm_\xe9\xe9\xe9\xe9", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(SohesError, match="does not hold CRM's weights"):
            load_network(path)
    for content, reason in broken:
        torch.save(content, path)
        with pytest.raises(SohesError, match=rf"{path} does not hold CRM's weights \(.*{reason}.*\): download"):
            load_network(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(SohesError, match="does not hold CRM's weights"):
        load_network(path)
    path.write_bytes(b"")
    with pytest.raises(SohesError, match="does not hold CRM's weights"):
        load_network(path)
