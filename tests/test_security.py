"""What must never happen, whoever writes the next module. Each subject's own tests show that it does not."""

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from sohes.backbone.build import build_backbone
from sohes.errors import SohesError
from sohes.params import Params
from sohes.tracking import flatten

# What would run code that somebody else has written, with those that do not: a result that our own job has written into
# our own folder, and ruamel.yaml's loader, which makes no objects.
FORBIDDEN = {
    "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive",
}  # fmt: skip
ALLOWED = {
    ("sohes/launch/slurm.py", "pickle.loads"),
    (
        "sohes/explore/feature_server.py",
        "pickle.loads",
    ),  # of what it has just pickled itself, to see whether that works
    ("sohes/commands/edited.py", "yaml.load"),
    ("sohes/data/benchmarks/matlab.py", "pickle.load"),  # questions and answers of two processes of the same command
}


def calls(repository: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in the code that users run."""
    for folder in ("sohes", "flows", "infra"):
        for path in sorted((repository / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield str(path.relative_to(repository)), ast.unparse(node.func), node


def test_nothing_that_was_downloaded_is_run_or_unpickled(repository):
    found = set()
    for file, name, call in calls(repository):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in FORBIDDEN:
            found.add((file, name))
        if name in ("torch.load", "load_state_dict"):
            assert given.get("weights_only") == "True", f"{file} calls {name} without weights_only=True"
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle", "False") == "False", f"{file} lets numpy unpickle"
        assert given.get("trust_remote_code", "False") == "False", f"{file} trusts remote code"
        assert not name.endswith(".extractall"), f"{file} unpacks an archive to disk"
    assert found == ALLOWED


def test_no_command_is_made_for_a_shell(repository):
    for file, name, call in calls(repository):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("shell", "False") == "False", f"{file}: {name} with shell={given['shell']}"
        if name in ("subprocess.run", "subprocess.Popen") and call.args:
            assert not isinstance(call.args[0], ast.JoinedStr | ast.Constant), f"{file}: {name} of one string"


def test_no_server_listens_to_others(repository):
    for folder in ("sohes", "flows"):
        for path in (repository / folder).rglob("*.py"):
            text = path.read_text()
            assert "0.0.0.0" not in text, f"{path} listens on every interface"
            assert 'host=""' not in text, f"{path} listens on every interface"


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights_that_are_a_programme_are_refused_and_not_run(tiny_params, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Evil(tmp_path / "run")}, protocol=2))
    tiny_params["backbone"]["pretrained"] = str(tmp_path / name)
    with pytest.raises(SohesError, match=f"{name} does not hold the weights"):
        build_backbone(Params.model_validate(tiny_params).backbone)
    assert not (tmp_path / "run").exists()


def test_signatures_and_passwords_in_links_are_not_recorded(tiny_params):
    tiny_params["pull"]["archives"]["images"] = [
        "https://me:hush@host.org/a.tar?X-Amz-Signature=hush&b=1", "https://host.org/b.tar?sig=hush", "plain.tar",
    ]  # fmt: skip
    tiny_params["pull"]["s3"]["endpoint_url"] = "http://key:hush@127.0.0.1:9000"
    recorded = flatten(Params.model_validate(tiny_params).model_dump(mode="json"))
    assert recorded["pull.archives.images"] == "['https://host.org/a.tar', 'https://host.org/b.tar', 'plain.tar']"
    assert recorded["pull.s3.endpoint_url"] == "http://127.0.0.1:9000"
    assert "hush" not in str(recorded)
