"""A stage by a launcher, then written into dvc.lock: with the launcher of this machine, which needs no cluster."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import flows.cluster
from flows.cluster import inputs_digest, missing_shards, run_elsewhere
from flows.graph import is_fresh
from sohes.errors import SohesError, TemporaryError
from sohes.launch import LocalProfile, Outcome, load_profile

HERE = LocalProfile(launcher="local", environment={}, grace_seconds=1)

# Two shards, then what makes one of them.
WORK = """
import os, pathlib, sys
done = [pathlib.Path(f"shard-{n}") for n in range(2)]
if sys.argv[1] == "shards":
    if os.environ.get("TROUBLE"):
        print(os.environ["TROUBLE"], file=sys.stderr)
        sys.exit(int(os.environ["CODE"]))
    print(",".join(str(n) for n in range(2) if not done[n].exists()))
elif "--shard" in sys.argv:
    if pathlib.Path(f"broken-{sys.argv[3]}").exists():
        sys.exit("sohes: the disk is full")
    done[int(sys.argv[3])].write_text(f"{sys.argv[3]} of {pathlib.Path('in.txt').read_text()}")
else:
    pathlib.Path("out.txt").write_text("".join(path.read_text() for path in done))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "in.txt").write_text("x")
    (tmp_path / "params.yaml").write_text("explore: {crops: 1}\nother: 1\n")
    stage = {"cmd": "python work.py explore", "deps": ["work.py", "in.txt"], "params": ["explore"], "outs": ["out.txt"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"explore": stage}}))
    return tmp_path


def run(root: Path, on_progress=lambda done, total: None):
    told: list[str] = []
    outcome = run_elsewhere("explore", root, HERE, environment={}, on_line=told.append, on_progress=on_progress)
    return outcome, told


def test_what_a_cluster_made_is_recorded_as_if_dvc_had_run_it(root):
    outcome, told = run(root)
    assert (outcome.exit_code, told[0]) == (0, "explore: 2 shards to do")
    assert (root / "out.txt").read_text() == "0 of x1 of x"
    assert is_fresh("explore", root)


def test_a_shard_that_fails_is_done_alone_the_next_time(root):
    (root / "broken-1").touch()
    outcome, told = run(root)
    assert outcome.exit_code == 1
    assert outcome.last_lines == ("sohes: the disk is full",)
    assert told[-1] == "explore: 1 of 2 shards failed; the others are kept"
    assert not (root / "dvc.lock").exists()
    (root / "broken-1").unlink()
    outcome, told = run(root)
    assert (outcome.exit_code, told[0]) == (0, "explore: 1 shards to do")
    assert is_fresh("explore", root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("work.py", f"{WORK}\n# another\n"),
        ("in.txt", "another"),
        ("params.yaml", "explore: {crops: 2}\nother: 1\n"),
        ("dvc.yaml", None),
    ],
)
def test_what_changed_while_it_ran_is_not_recorded(root, name, text):
    if text is None:
        text = (root / name).read_text().replace("python work.py", "python  work.py")

    def change(done: int, total: int) -> None:
        if done == 1:
            (root / name).write_text(text)

    with pytest.raises(SohesError, match="code, params or inputs of explore changed while it ran: not recorded"):
        run(root, change)
    assert not (root / "dvc.lock").exists()
    assert not is_fresh("explore", root)


def test_a_commit_that_fails_is_one_sentence_with_the_command_that_records_it(root):
    (root / ".dvc/config").write_text("[cache]\n    dir = /proc/nowhere\n")
    with pytest.raises(
        SohesError, match=r"dvc commit explore failed: .*remove the cause, then `dvc commit --force exp"
    ):
        run(root)
    assert (root / "out.txt").exists()


@pytest.mark.parametrize("option", ["--params mine.yaml", "--params=mine.yaml"])
def test_a_stage_with_a_params_file_of_its_own_is_asked_and_watched_with_that_file(root, option):
    stage = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["explore"]
    stage |= {"cmd": f"python work.py explore {option}", "params": [{"mine.yaml": ["explore"]}]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"explore": stage}}))
    (root / "work.py").write_text(WORK.replace("sys.argv[3]", "sys.argv[-1]"))
    (root / "mine.yaml").write_text("explore: {crops: 1}\n")
    before = inputs_digest("explore", root)
    (root / "params.yaml").write_text("explore: {crops: 3}\n")
    assert inputs_digest("explore", root) == before
    outcome, told = run(root)
    assert (outcome.exit_code, told[0]) == (0, "explore: 2 shards to do")
    assert is_fresh("explore", root)
    (root / "mine.yaml").write_text("explore: {crops: 2}\n")
    assert inputs_digest("explore", root) != before


def test_a_command_that_does_not_name_its_stage_is_one_sentence(root):
    with pytest.raises(SohesError, match=r"the command of explore in dvc\.yaml does not name it"):
        missing_shards((sys.executable, "work.py", "look"), "explore", root, {})


@pytest.mark.parametrize(
    ("code", "said", "may_pass"),
    [
        (75, "sohes: s3://mine: the connection failed", True),
        (-9, "", True),
        (1, "Traceback\nZeroDivisionError", True),
        (1, "sohes: Unable to locate credentials", False),
        (2, "no such option", False),
    ],
)
def test_whether_the_question_for_shards_may_be_asked_again_depends_on_how_it_ended(root, code, said, may_pass):
    profile = HERE.model_copy(update={"environment": {"TROUBLE": said or " ", "CODE": str(code)}})
    with pytest.raises(SohesError) as error:
        run_elsewhere("explore", root, profile, environment={}, on_line=print, on_progress=print)
    assert str(error.value) == (said.removeprefix("sohes: ").splitlines() or ["it said nothing"])[-1]
    assert isinstance(error.value, TemporaryError) == may_pass


@pytest.mark.parametrize("place", ["profile", "flow"])
def test_the_question_for_shards_is_asked_with_the_environment_of_the_jobs(root, place, monkeypatch):
    """A bucket that only the launch profile has the keys of is listed for the answer."""
    (root / "work.py").write_text(f"import os\nassert os.environ['AWS_SECRET_ACCESS_KEY'] == 'theirs'\n{WORK}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ours")
    keys = {"AWS_SECRET_ACCESS_KEY": "theirs"}
    profile = HERE.model_copy(update={"environment": keys if place == "profile" else {}})
    outcome = run_elsewhere(
        "explore", root, profile, environment=keys if place == "flow" else {}, on_line=print, on_progress=print
    )
    assert outcome.exit_code == 0


def test_a_param_of_another_stage_may_change(root):
    run(root, lambda done, total: (root / "params.yaml").write_text(f"explore: {{crops: 1}}\nother: {done + 1}\n"))
    assert is_fresh("explore", root)


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [("pull", ["cpu", "cpu"]), ("explore", ["shard", "whole"]), ("evaluate", ["shard", "whole"]),
     ("report", ["cpu"]), ("instruct", ["train"]), ("another", ["whole"])],
)  # fmt: skip
def test_a_stage_without_a_network_takes_no_gpu(root, monkeypatch, repository, stage, kinds):
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    command = f"python work.py {stage}"
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {stage: stages["explore"] | {"cmd": command}}}))
    (root / "work.py").write_text(WORK)
    asked = []

    def launched(tasks, *, kind, **_):
        asked.append(kind)
        return [Outcome(0, root, ()) for _ in tasks]

    monkeypatch.setattr(flows.cluster, "run_tasks", launched)
    monkeypatch.setattr(flows.cluster, "commit", lambda *_: None)
    run_elsewhere(stage, root, HERE, environment={}, on_line=print, on_progress=print)
    assert asked == kinds
    for name in ("slurm", "kubernetes"):
        profile = load_profile(repository / "infra/launch", name)
        assert [getattr(profile, kind).gpus == 0 for kind in kinds] == [kind == "cpu" for kind in kinds]
