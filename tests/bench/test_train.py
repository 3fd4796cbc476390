import pytest
import torch

from sohes.bench import train
from sohes.errors import SohesError
from sohes.params import load_params


@pytest.fixture
def small(repository):
    params = load_params(repository / "params.yaml")
    model = {"image_size": 64, "hidden_dim": 16, "num_queries": 21, "num_heads": 2, "feedforward_dim": 32}
    vit = {"embed_dim": 16, "depth": 2, "num_heads": 2, "image_size": 64}
    return params.model_copy(
        update={
            "model": params.model.model_copy(update=model),
            "backbone": params.backbone.model_copy(update=vit),
            "instruct": params.instruct.model_copy(update={"max_targets": 5}),
        }
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the CPU's figures")
def test_shares_of_a_step_add_up(small):
    measured = train.measure(small, images=2, steps=2)
    assert list(measured["shares"]) == ["forward", "loss", "backward", "optimizer"]
    assert all(share > 0 for share in measured["shares"].values())
    assert sum(measured["shares"].values()) == pytest.approx(1, abs=0.05)
    assert (measured["device"], measured["precision"], measured["images"]) == ("cpu", "float32", 2)
    assert 0 < measured["cpu_seconds"] < 10


def test_the_labels_are_discs(small):
    batch = train.example(2, size=64, targets=5)
    assert batch.images_B3HW.shape == (2, 3, 64, 64)
    areas = torch.stack([t.masks_THW.sum((1, 2)) for t in batch.targets])
    assert areas.shape == (2, 5)
    assert (areas < 64 * 64 / 4).all()
    assert areas.max() > 50


def test_in_a_process_of_its_own_a_part_of_the_batch_at_once(small, monkeypatch, tmp_path, repository):
    called = []
    monkeypatch.setattr(train, "in_own_process", lambda *arguments: called.append(arguments) or {"name": "train"})
    assert train.bench_train(repository / "params/one-gpu.yaml", steps=7) == {"name": "train"}
    assert called[0][2:] == (8, 7)
    text = (repository / "params.yaml").read_text().replace("head: mask2former ", "head: cascade ")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SohesError, match=r"mask2former \(got cascade\)"):
        train.bench_train(tmp_path / "params.yaml")
