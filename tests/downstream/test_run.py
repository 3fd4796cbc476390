from __future__ import annotations

from sohes.work.identity import source_files


def test_a_figure_depends_on_all_code_that_trains_and_scores():
    rooms = ("downstream.probes", "downstream.scores", "downstream.sets.coco", "data.scenes.render", "model.adapter")
    assert {f"sohes.{name}" for name in rooms} <= set(source_files(["sohes.downstream.run"]))
    assert "sohes.evaluate.tables" not in source_files(["sohes.downstream.run"])
