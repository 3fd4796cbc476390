import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from sohes import cli
from sohes.commands.bench import Bench
from sohes.errors import TEMPORARY, SohesError
from sohes.params import load_params

SCRIPT = Path(sys.executable).with_name("sohes")


def sohes(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sohes", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def run_main(monkeypatch, *arguments: str) -> int:
    """What the shell would see as the exit code."""
    monkeypatch.setattr(sys, "argv", ["sohes", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return ended.value.code


@pytest.fixture
def failing_stage(monkeypatch, tmp_path, repository):
    """`sohes report` with a stage that raises what the test says; the working folder is temporary."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((repository / "params.yaml").read_text())

    def fail_with(error: BaseException) -> int:
        class Module:
            @staticmethod
            def run(params, root, *, unchanged):
                raise error

        monkeypatch.setitem(sys.modules, "sohes.stages.report", Module)
        return run_main(monkeypatch, "report")

    return fail_with


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    import sohes as package

    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"sohes {package.__version__}\n"


def test_importing_the_cli_imports_nothing_heavy(tmp_path):
    heavy = ["torch", "mlflow", "cv2", "matplotlib", "numba", "numpy", "pydantic", "pyarrow", "prefect", "sohes.params"]
    code = f"import sohes.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_stage_of_the_pipeline_is_a_command(repository, tmp_path):
    names = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    help_text = sohes("--help", cwd=tmp_path, COLUMNS="80").stdout
    assert len(help_text.splitlines()) <= 40
    for name, stage in names.items():
        assert stage["cmd"] == f"python -m sohes {name}"
        assert f" {name} " in help_text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_commands_line_in_the_list_is_the_first_of_its_own_help(name):
    command = cli.load(name)
    assert command.name == name
    assert command.help.splitlines()[0] == cli.COMMANDS[name][2]


def test_no_command_writes_into_the_code_by_default():
    """Or into its documentation: only where the stages and tools write, or beside the user's files."""
    paths = {
        Path(str(param.default)).parts[0]
        for name in cli.COMMANDS
        for param in cli.load(name).params
        if param.name in ("out", "json_out") and param.default is not None
    }
    assert paths == {"reports", "segmented", "labels.parquet"}


def test_no_help_imports_torch(tmp_path):
    code = "import sys; from sohes import cli\nfor name in cli.COMMANDS: cli.load(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_measurement_has_its_function_and_every_such_function_its_name(repository):
    files = (repository / "sohes/bench").glob("[a-z]*.py")
    measured = {path.stem for path in files if f"def bench_{path.stem}(" in path.read_text()}
    assert {name.value for name in Bench} == measured


def test_a_measurement_ends_with_a_json_object_and_takes_its_functions_options(tmp_path):
    done = sohes("bench", "nms", "--repeats", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["seconds_median"] > 0
    wrong = sohes("bench", "nms", "--wheels", "4", cwd=tmp_path)
    assert (wrong.returncode, "No such option: --wheels" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("sohes seg", {"segment"}, {"score"}),
        ("sohes segment --", {"--model", "--explore", "--help"}, {"--phase"}),
        ("sohes evaluate --ph", {"--phase"}, {"--set"}),
        ("sohes evaluate --phase ", {"explore", "instruct", "correct"}, {"pull"}),
        ("sohes bench n", {"nms"}, {"decode"}),
        ("sohes view-batch --", {"--params"}, {"--model"}),
        ("sohes explore --set explore.ref", {"explore.refiner", "explore.refine_min_iou"}, {"evaluate.refiner"}),
        ("sohes --", {"--version", "--install-completion"}, {"--params"}),
    ],
)
def test_the_shell_completes_commands_that_are_not_loaded_yet(line, wanted, unwanted):
    asked = {"_SOHES_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=True, env={**os.environ, **asked})
    offered = set(done.stdout.splitlines())
    assert offered >= wanted
    assert not offered & unwanted


def test_completion_is_installed_for_a_shell_and_works_in_it(tmp_path):
    here = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run = partial(subprocess.run, capture_output=True, text=True, check=True, env={**os.environ, **here})
    shown = run([SCRIPT, "--show-completion", "bash"]).stdout
    run([SCRIPT, "--install-completion", "bash"])
    (installed,) = tmp_path.rglob("sohes.sh")
    assert installed.read_text().strip() == shown.strip()
    assert str(installed) in (tmp_path / ".bashrc").read_text()
    typed = f"COMP_WORDS=(sohes expl); COMP_CWORD=1; _sohes_completion {SCRIPT}; echo ${{COMPREPLY[@]}}"
    assert run(["bash", "-c", f"source {installed}; {typed}"]).stdout == "explore\n"


def test_a_missing_params_file_is_one_sentence(tmp_path):
    done = sohes("pull", "--params", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert (
        done.stderr == "sohes: no params file at nowhere.yaml: run in the project's folder, or name one with --params\n"
    )


def test_an_unknown_key_is_one_sentence_that_names_it(tmp_path, repository):
    text = (repository / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("nms_iou:", "nms_iuo:", 1))
    done = sohes("explore", cwd=tmp_path)
    assert done.returncode == 1
    assert "unknown key explore.nms_iuo" in done.stderr
    assert "missing key explore.nms_iou" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path):
    done = sohes("--debug", "pull", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SohesError" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--shard", "0"], ["explore", "--shard", "-1"], ["explore", "--shard", "3-1"],
        ["explore", "--shard", "3-"], ["explore", "--shard", "1,2"], ["fly"], ["bench", "lunch"],
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2(tmp_path, arguments):
    done = sohes(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_a_users_error_is_its_sentence(failing_stage, capsys):
    assert failing_stage(SohesError("the cup is empty: fill it")) == 1
    assert capsys.readouterr().err == "sohes: the cup is empty: fill it\n"


def full_disk() -> Exception:
    """A library's own exception that came from the system's."""
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return wrapped


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        full_disk(),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_a_full_disk_is_one_sentence(failing_stage, capsys, error):
    assert failing_stage(error) == 1
    told = capsys.readouterr().err
    assert told.startswith("sohes: the disk is full")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "permission denied: fix its permissions, or name another"),
        (errno.EROFS, "read-only file system: name a place that can be written to"),
        (errno.EEXIST, "file exists: a folder must be there: name another, or remove the file"),
        (errno.ENOTDIR, "not a directory: name a place inside a folder"),
        (errno.ELOOP, "too many levels of symbolic links: fix it or name another"),
    ],
)
def test_a_file_that_may_not_be_written_is_one_sentence_with_a_remedy(failing_stage, capsys, number, told):
    assert failing_stage(OSError(number, os.strerror(number), "models/x.safetensors")) == 1
    assert capsys.readouterr().err == f"sohes: models/x.safetensors: {told}\n"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN])
def test_a_fault_of_a_shared_file_system_may_pass(failing_stage, capsys, number):
    assert failing_stage(OSError(number, os.strerror(number), "models/x.safetensors")) == TEMPORARY
    assert "run the same command again; if it stays, the file system" in capsys.readouterr().err


@pytest.mark.parametrize(("named", "told"), [((), "full: free"), (("/dev/full",), "full (/dev/full): free")])
def test_a_full_disk_is_that_of_the_file_alone(failing_stage, capsys, named, told):
    assert failing_stage(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *named)) == 1
    assert capsys.readouterr().err.startswith(f"sohes: the disk is {told}")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"),
            "CUDA out of memory. Tried to allocate 2 GiB.",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
        (RuntimeError("unable to mmap: Cannot allocate memory (12)"), "unable to mmap: Cannot allocate memory (12)"),
    ],
)
def test_running_out_of_memory_is_one_sentence_with_a_remedy(failing_stage, capsys, error, reason):
    assert failing_stage(error) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"sohes: there is not enough memory ({reason}): take fewer processes (SOHES_WORKERS)")
    assert len(told.splitlines()) == 1


def test_ctrl_c_ends_with_130_and_a_word(failing_stage, capsys):
    assert failing_stage(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == "sohes: interrupted"


def test_ctrl_c_that_a_pool_turned_into_a_sentence_ends_with_130(failing_stage, capsys):
    error = SohesError("explore: stopped by the user")
    error.__context__ = KeyboardInterrupt()
    assert failing_stage(error) == 130
    assert capsys.readouterr().err == "sohes: explore: stopped by the user\n"


def test_a_fault_of_our_own_keeps_its_traceback(failing_stage):
    with pytest.raises(ZeroDivisionError):
        failing_stage(ZeroDivisionError())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_lets_a_stage_clean_up(tmp_path, repository, number, code):
    (tmp_path / "params.yaml").write_text((repository / "params.yaml").read_text())
    script = (
        "import sys, time, types\n"
        "def run(params, root, *, unchanged):\n"
        "    try: (root / 'started').touch(); time.sleep(60)\n"
        "    finally: (root / 'cleaned').touch()\n"
        "sys.modules['sohes.stages.report'] = types.SimpleNamespace(run=run); sys.argv = ['sohes', 'report']\n"
        "from sohes.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in told
    assert (tmp_path / "cleaned").exists()


def test_init_points_params_at_a_folder_and_keeps_everything_else(tmp_path, repository):
    (tmp_path / "photos/deep").mkdir(parents=True)
    (tmp_path / "photos/deep/one.jpg").touch()
    done = sohes("init", "--images", "photos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pull.folder.images is photos" in done.stdout
    before, after = load_params(repository / "params.yaml"), load_params(tmp_path / "params.yaml")
    assert after.pull.source == "folder"
    assert after.pull.folder.images == Path("photos")
    assert after.pull.folder.annotations is None
    assert after.model_copy(update={"pull": before.pull}) == before
    lines = (repository / "params.yaml").read_text().splitlines(), (tmp_path / "params.yaml").read_text().splitlines()
    assert sum(a != b for a, b in zip(*lines, strict=True)) == 2  # comments and layout stay too


def test_init_begins_with_a_profile_but_spares_numbers_of_ones_own(tmp_path, repository):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    for name in ("demo", "photographs"):  # one profile may follow another
        done = sohes("init", "--images", "photos", "--profile", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    profile, written = load_params(repository / "params/photographs.yaml"), load_params(tmp_path / "params.yaml")
    assert written.model_dump(exclude={"pull"}) == profile.model_dump(exclude={"pull"})
    assert written.pull.folder.images == Path("photos")
    (tmp_path / "params.yaml").write_text((tmp_path / "params.yaml").read_text().replace("seed: 0", "seed: 7"))
    done = sohes("init", "--images", "photos", "--profile", "demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "numbers of your own: move it away" in done.stderr
    done = sohes("init", "--images", "photos", "--profile", "large", cwd=tmp_path)
    assert done.returncode == 1
    assert "no profile large: name one of demo, one-gpu, paper, photographs" in done.stderr
    done = sohes("init", "--images", "photos", "--profile", "released", cwd=tmp_path)
    assert done.returncode == 1
    assert "on labels that the profile photographs makes" in done.stderr
    assert load_params(tmp_path / "params.yaml").seed == 7


def test_init_takes_annotations_and_keeps_the_users_own_numbers(tmp_path, repository):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").touch()
    image = {"id": 1, "file_name": "one.jpg", "height": 8, "width": 9}
    annotations = [{"id": 1, "image_id": 1, "segmentation": [[1, 1, 6, 1, 6, 6]]}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    (tmp_path / "params.yaml").write_text((repository / "params.yaml").read_text().replace("seed: 0", "seed: 41"))
    done = sohes("init", "--images", "photos", "--annotations", "truth.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    params = load_params(tmp_path / "params.yaml")
    assert (params.seed, params.pull.folder.annotations) == (41, Path("truth.json"))


def test_init_reads_every_mask_and_says_what_it_left_out(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").touch()
    image = {"id": 1, "file_name": "one.jpg", "height": 8, "width": 9}
    triangle = {"id": 1, "image_id": "1", "segmentation": [[1, 1, 6, 1, 6, 6]]}
    for other, returncode, told in (
        ({"segmentation": []}, 0, "truth.json: 1 left out: no pixel in their masks, such as annotation 2 of one.jpg"),
        ({"segmentation": [[1, 1, None, 1, 6, 6]]}, 1, "truth.json: annotation 2 of one.jpg has no mask"),
    ):
        content = {"images": [image], "annotations": [triangle, triangle | {"id": 2} | other]}
        (tmp_path / "truth.json").write_text(json.dumps(content))
        done = sohes("init", "--images", "photos", "--annotations", "truth.json", cwd=tmp_path)
        assert done.returncode == returncode, done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "absent"], "no such folder of photographs: absent"),
        (["--images", "empty"], "there are no photographs in empty (.jpg, "),
        (["--images", "."], ". holds this folder, whose results would pass for photographs"),
        (["--images", ".."], ".. holds this folder"),
        (["--images", ".", "--annotations", "absent.json"], "no such annotation file: absent.json"),
        (["--images", ".", "--annotations", "one.jpg"], "one.jpg is not"),
    ],
)
def test_init_refuses_what_is_not_there_or_not_to_be_and_writes_nothing(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.jpg").touch()
    done = sohes("init", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "params.yaml").exists()


def test_table_prints_one_row_per_phase_and_where_to_look(tmp_path):
    rows = {
        phase: {"AR": ar, "AR_S": 1.0, "AR_M": None, "AR_L": 3.0, "AP": 4.0, "masks_per_image": 5.0,
                "seconds_per_image": 0.25, "images": 8, "max_masks": 500}
        for phase, ar in (("correct", 22.0), ("explore", 20.04), ("instruct", 21.06))
    }  # fmt: skip
    for folder in ("metrics", "reports"):
        (tmp_path / folder).mkdir()
    (tmp_path / "metrics/evaluate.json").write_text(json.dumps(rows))
    (tmp_path / "reports/index.html").touch()
    (tmp_path / "mlflow.db").touch()
    done = sohes("table", cwd=tmp_path, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    cells = [line.strip("│ ").split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert "8 held-out images, AR@500 and AP in percent" in done.stdout
    assert [[c.strip() for c in row][:4] for row in cells] == [
        ["explore", "20.0", "1.0", "-"],
        ["instruct", "21.1", "1.0", "-"],
        ["correct", "22.0", "1.0", "-"],
    ]
    for place in ("metrics/evaluate.json", "reports/index.html", "mlflow.db"):
        assert str(tmp_path / place) in done.stdout


def test_table_before_any_run_is_one_sentence(tmp_path):
    done = sohes("table", cwd=tmp_path)
    assert done.returncode == 1
    assert "no scores at" in done.stderr


def test_benchmark_info_lists_the_names_and_describes_one(tmp_path):
    names = sohes("benchmark-info", cwd=tmp_path).stdout.split()
    assert names[:3] == ["coco", "lvis", "ade20k"]
    assert "annotations/lvis_v1_val.json" in sohes("benchmark-info", "lvis", cwd=tmp_path).stdout
    wrong = sohes("benchmark-info", "imagenet", cwd=tmp_path)
    assert (wrong.returncode, "no benchmark is called imagenet" in wrong.stderr) == (1, True)


def test_score_of_an_empty_folder_is_one_sentence(tmp_path):
    done = sohes("score", "absent.json", "--benchmark", "coco", "--root", ".", cwd=tmp_path)
    assert done.returncode == 1
    assert "sohes: . does not hold coco" in done.stderr
    assert len(done.stderr.splitlines()) == 1
