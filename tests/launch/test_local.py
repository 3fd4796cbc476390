import os
import sys
import time
from pathlib import Path

import pytest

from sohes.errors import SohesError
from sohes.launch import LAST_LINES, LocalProfile, load_profile, run_task

PROFILE = LocalProfile(launcher="local", environment={}, grace_seconds=5)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_task_runs_in_the_root_and_both_streams_reach_the_log_and_the_caller(tmp_path):
    heard: list[str] = []
    code = "import os, sys; print(os.getcwd()); print('careful', file=sys.stderr)"
    outcome = run_task(python(code), task="pull", root=tmp_path, profile=PROFILE, on_line=heard.append)
    assert outcome.exit_code == 0
    assert outcome.log == tmp_path / ".sohes/logs/pull.log"
    assert heard == [str(tmp_path), "careful"]
    assert outcome.log.read_text() == f"{tmp_path}\ncareful\n"


def test_a_failing_task_keeps_its_last_lines_and_the_log_keeps_all(tmp_path):
    code = "print(*range(150), sep='\\n'); raise SystemExit(3)"
    outcome = run_task(python(code), task="explore", root=tmp_path, profile=PROFILE)
    assert outcome.exit_code == 3
    assert outcome.last_lines == tuple(str(n) for n in range(150 - LAST_LINES, 150))
    assert len(outcome.log.read_text().splitlines()) == 150


def test_the_log_of_an_earlier_attempt_stays(tmp_path):
    for word in ("first", "second"):
        run_task(python(f"print('{word}')"), task="pull", root=tmp_path, profile=PROFILE)
    assert (tmp_path / ".sohes/logs/pull.log").read_text() == "first\nsecond\n"


def test_the_profiles_environment_and_the_callers_reach_the_command(tmp_path):
    profile = LocalProfile(launcher="local", environment={"A": "profile", "B": "profile"}, grace_seconds=5)
    code = "import os; print(os.environ['A'], os.environ['B'])"
    outcome = run_task(python(code), task="t", root=tmp_path, profile=profile, environment={"B": "caller"})
    assert outcome.last_lines == ("profile caller",)


def test_a_command_is_never_read_by_a_shell(tmp_path):
    outcome = run_task(
        [*python("import sys; print(sys.argv[1])"), "$(echo x); *"], task="t", root=tmp_path, profile=PROFILE
    )
    assert outcome.last_lines == ("$(echo x); *",)


def test_a_command_that_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(SohesError, match="cannot start no-such-program for pull: No such file"):
        run_task(["no-such-program"], task="pull", root=tmp_path, profile=PROFILE)


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interruption_ends_the_command_and_its_children_first(tmp_path, stubborn):
    # The command starts a child and names it; the caller is interrupted at that line.
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    code = ignore + (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    children: list[int] = []

    def interrupt(line: str) -> None:
        children.append(int(line))
        raise KeyboardInterrupt

    started = time.monotonic()
    profile = LocalProfile(launcher="local", environment={}, grace_seconds=0.5)
    with pytest.raises(KeyboardInterrupt):
        run_task(python(code), task="t", root=tmp_path, profile=profile, on_line=interrupt)
    assert time.monotonic() - started < 30
    assert _gone(children[0])


def _gone(pid: int) -> bool:
    """Ended, or a zombie that nobody has collected yet."""
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_command_that_says_much_while_it_ends_does_not_block(tmp_path):
    code = (
        "import signal, sys, time\n"
        "def bye(*_): print('x' * 10**6, flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye); print('ready', flush=True); time.sleep(60)"
    )

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_task(python(code), task="t", root=tmp_path, profile=PROFILE, on_line=interrupt)
    assert time.monotonic() - started < PROFILE.grace_seconds


def test_the_checkouts_own_profile_is_valid_and_the_default(repository, monkeypatch):
    folder = repository / "infra/launch"
    assert load_profile(folder).launcher == "local"
    monkeypatch.setenv("SOHES_LAUNCH", "moon")
    with pytest.raises(SohesError, match=r"no launch profile 'moon' in .* \(there is: kubernetes, local, slurm\)"):
        load_profile(folder)
    assert load_profile(folder, "local").launcher == "local"  # a name given beats the environment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launcher: local\nenvironment: {}\ngrace_seconds: 1\npartition: gpu\n", "partition: Extra inputs"),
        ("launcher: local\nenvironment: {}\n", "grace_seconds: Field required"),
        ("launcher: rocket\nenvironment: {}\ngrace_seconds: 1\n", "Input tag .rocket. found"),
        ("launcher: [\n", "not valid YAML"),
        ("", "is empty: fix it"),
    ],
)
def test_a_broken_profile_names_its_file_and_key(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SohesError, match=message) as caught:
        load_profile(tmp_path, "mine")
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
