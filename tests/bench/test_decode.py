import pytest

from sohes.bench import decode
from sohes.bench.cost import Cost


@pytest.mark.parametrize("reference", [False, True])
def test_both_ways_run_on_the_same_predictions(monkeypatch, reference):
    monkeypatch.setattr(decode, "QUERIES", 5)
    monkeypatch.setattr(decode, "SIZE", 64)
    cost = decode._measure(reference, rounds=1)
    assert 0 < cost.cpu_seconds < 5
    assert cost.peak_mb >= 0


def test_the_reference_is_measured_too(monkeypatch):
    costs = {False: Cost(0.3, 0.2, 10.0), True: Cost(2.0, 1.0, 90.0)}
    monkeypatch.setattr(decode, "in_own_process", lambda measure, reference: costs[reference])
    assert "ratio" not in decode.bench_decode()
    measured = decode.bench_decode(reference=True)
    assert (measured["name"], measured["cpu_seconds_median"], measured["peak_mb"]) == ("decode", 0.2, 10.0)
    assert (measured["reference_cpu_seconds"], measured["ratio"], measured["reference_peak_mb"]) == (1.0, 5.0, 90.0)
