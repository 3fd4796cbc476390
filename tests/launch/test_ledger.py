import shutil

from sohes.launch.ledger import Ledger
from sohes.launch.task import Task

TASK = Task("one", ("python", "-m", "sohes", "explore"))


def test_a_submission_answers_what_was_asked_for_in_the_same_way_alone(tmp_path):
    ledger = Ledger(tmp_path, "slurm", "explore")
    submission = ledger.open([TASK], "params a")
    assert not submission.answers(TASK, "params a")  # nobody knows whether it has jobs
    submission = ledger.submitted(submission, {"one": "17"})
    assert submission.answers(TASK, "params a")
    assert not submission.answers(TASK, "params b")
    assert not submission.answers(Task("one", ("python", "-m", "sohes", "pull")), "params a")
    assert not submission.answers(Task("two", TASK.command), "params a")


def test_a_caller_that_starts_again_finds_its_jobs_and_a_copy_of_the_project_does_not(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    ledger = Ledger(first, "slurm", "explore")
    ledger.submitted(ledger.open([TASK], "d"), {"one": "17"})
    (found,) = Ledger(first, "slurm", "explore").submissions
    assert found.jobs == {"one": "17"}
    shutil.copytree(first, second)
    assert Ledger(second, "slurm", "explore").submissions == []  # it must neither wait for them nor cancel them
