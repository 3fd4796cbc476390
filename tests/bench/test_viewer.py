import pytest

from sohes.bench.viewer import bench_viewer, chromium
from sohes.errors import SohesError


def test_the_trace_has_a_frame_per_move_of_the_pointer():
    try:
        measured = bench_viewer(count=20, size=64, moves=10)
    except SohesError as error:
        pytest.skip(str(error))
    assert measured["masks"] == 20
    assert 0 < measured["frames"] <= 12
    assert 0 < measured["script_ms"]["p50"] <= measured["script_ms"]["max"]


def test_without_chromium_the_remedy_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SohesError, match="no Chromium on this machine"), chromium():
        pass
