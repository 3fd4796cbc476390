import pytest

from sohes.train import progress
from sohes.train.progress import Steps


def test_a_log_gets_a_line_now_and_then_and_a_sentence_once(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Steps("instruct", start=10, steps=100, images_per_step=8, shown=True)() as steps:
        for done in range(11, 101):
            now[0] += 2.0
            steps.show(done, 1.5)
        steps.say("image 3 is gone")
        steps.say("image 3 is gone")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "instruct 26/100  loss 1.500  4.0 images/s  2 min left"
    assert lines[-2:] == ["instruct 100/100  loss 1.500  4.0 images/s  0 min left", "image 3 is gone"]
    assert len(lines) == 7  # 180 seconds at one line in more than 30, the last, and the sentence


@pytest.mark.parametrize("done", [50, 100])
def test_only_one_of_many_processes_shows_its_steps(capsys, done):
    with Steps("instruct", start=0, steps=100, images_per_step=8, shown=False)() as steps:
        steps.show(done, 1.5)
        steps.say("every process names what it passed over")
    assert capsys.readouterr().err == "every process names what it passed over\n"
