import time

import pytest

from sohes.bench.cost import Cost, compared, cost_of


def test_waiting_is_no_work_and_memory_is_what_grew(monkeypatch):
    peaks = iter([1.5, 1.75])
    monkeypatch.setattr("sohes.bench.cost.peak_gb", lambda: next(peaks))
    cost, outcome = cost_of(lambda: time.sleep(0.02) or "done", repeats=3)
    assert outcome == "done"
    assert cost.seconds >= 0.02
    assert cost.cpu_seconds < cost.seconds
    assert cost.peak_mb == 250
    assert cost.figures(2).keys() == {"seconds_median", "cpu_seconds_median", "peak_mb"}


def test_the_ratio_is_the_references_over_ours():
    assert compared(Cost(1, 0.5, 0), Cost(1, 2.0, 0)) == {"reference_cpu_seconds": 2.0, "ratio": pytest.approx(4)}
