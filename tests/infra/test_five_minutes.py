"""What the walk through the first five minutes takes for a fault. The walk itself needs a finished demo and minutes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.docs.five_minutes import TOUR, Walk

HERE = "http://127.0.0.1:5000/static/main.js"


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    return Walk(None, tmp_path, tmp_path, {})


def message(text: str, url: str = HERE, kind: str = "error") -> SimpleNamespace:
    return SimpleNamespace(type=kind, text=text, location={"url": url})


@pytest.mark.parametrize("url", ["https://example.org/x.js", "http://192.168.0.1/", "wss://example.org/live"])
def test_a_request_that_leaves_the_machine_is_a_fault(walk, url):
    walk.asked(HERE)
    walk.asked("data:image/png;base64,AAAA")
    assert walk.faults == []
    walk.asked(url)
    (fault,) = walk.faults
    assert url in fault


def test_an_error_in_the_console_is_a_fault_but_not_what_the_pages_always_lack(walk):
    walk.heard(HERE, message("slow", kind="warning"))
    walk.heard(HERE, message("404", "http://127.0.0.1:4200/favicon.ico"))
    assert walk.faults == []
    walk.heard(HERE, message("x is not a function"))
    walk.heard(HERE, message("404", "http://127.0.0.1:4200/api/flow_runs/filter"))
    assert len(walk.faults) == 2


def test_the_tour_shows_every_picture_that_the_walk_takes_for_it(repository):
    page = (repository / "docs/tour.md").read_text()
    assert all(f"(pictures/{picture})" in page for picture in TOUR.values())
