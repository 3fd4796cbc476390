import pytest

from sohes.bench import loss
from sohes.bench.cost import Cost


@pytest.fixture
def small(monkeypatch):
    for name, value in {"SIZE": 64, "TARGETS": 3, "QUERIES": 3, "POINTS": 50, "LAYERS": 2, "ROUNDS": 1}.items():
        monkeypatch.setattr(loss, name, value)


@pytest.mark.parametrize("measure", [loss._measure_ours, loss._measure_transformers])
def test_both_contenders_run_on_the_same_example(small, measure):
    cost = measure()
    assert cost.seconds > 0
    assert 0 < cost.cpu_seconds < 5
    assert 0 < cost.peak_mb < 4000


def test_the_example_has_targets_and_similar_predictions(small):
    masks, class_logits, predicted = loss.example()
    assert masks.shape == (3, 64, 64)
    assert [tuple(layer.shape) for layer in class_logits] == [(1, 3, 2)] * 2
    assert [tuple(layer.logits_BQhw().shape) for layer in predicted] == [(1, 3, 16, 16)] * 2
    leaves = [part for layer in predicted for part in layer.parts()]
    assert all(leaf.requires_grad and leaf.is_leaf for leaf in (*class_logits, *leaves))


def test_each_contender_runs_in_its_own_process_and_the_ratio_is_of_cpu_seconds(monkeypatch):
    figures = {"_measure_ours": Cost(2.5, 2.0, 1000.0), "_measure_transformers": Cost(9.0, 8.0, 3000.0)}
    monkeypatch.setattr(loss, "in_own_process", lambda measure: figures[measure.__name__])
    assert loss.bench_loss() == {"name": "loss", "seconds_median": 2.5, "cpu_seconds_median": 2.0, "peak_mb": 1000.0}
    assert loss.bench_loss(reference=True) == {
        "name": "loss",
        "seconds_median": 2.5,
        "cpu_seconds_median": 2.0,
        "peak_mb": 1000.0,
        "reference_cpu_seconds": 8.0,
        "reference_peak_mb": 3000.0,
        "ratio": 0.25,
    }
