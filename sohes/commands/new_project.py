"""What `sohes init` writes beside params.yaml, so that `dvc repro` and the flows run in a folder without the code."""

from __future__ import annotations

from pathlib import Path

import yaml

from sohes.pipeline import CODE, STAGES
from sohes.project import TEMPLATE, Project, read_mapping
from sohes.work.files import write_file

HERE = Project(Path())

README = """\
# A project of SOHES

Segments everything in a folder of photographs, learned from them without labels.
`params.yaml` has every number; `dvc.yaml` the stages; `infra/launch` where they run.

    sohes doctor                         # can this machine run it?
    dvc repro                            # run what has changed: photographs, numbers or the installed code
    python -m flows.pipeline             # the same under Prefect; --launch slurm: on a cluster
    sohes view                           # look at the masks; reports/index.html: figures and pictures
    sohes segment PHOTOGRAPHS --out masks
"""

_DVC = "[core]\n    analytics = false\n"
_HEAD = """\
# The stages, made by `sohes init`. Every stage depends on a digest of its own code, which the first one writes each
# time: another version of the package runs again only what it computes differently.
"""


def make_project(root: Path) -> list[Path]:
    """Write what a project needs and `root` lacks; nothing that is there is touched. Returns the new files.

    In a folder that has a dvc.yaml, which may be a checkout, that is nothing.
    """
    project = Project(root)
    if project.graph.exists():
        return []
    texts = {project.graph: _HEAD + yaml.safe_dump(graph_without_source(), sort_keys=False), project.readme: README}
    files = [TEMPLATE.git_ignores, TEMPLATE.dvc_ignores, TEMPLATE.packs, *TEMPLATE.launch_profiles.glob("*.yaml")]
    files += [TEMPLATE.deployments, TEMPLATE.automations, TEMPLATE.pod_template, *TEMPLATE.slurm_scripts.glob("*.sh")]
    for path in files:
        texts[root / path.relative_to(TEMPLATE.root)] = path.read_text("utf-8")
    around = (root.resolve(), *root.resolve().parents)
    if not any(Project(folder).dvc.is_dir() for folder in around):
        in_git = any((folder / ".git").exists() for folder in around)
        texts[project.dvc / "config"] = _DVC if in_git else f"{_DVC}    no_scm = true\n"
        texts[project.dvc / ".gitignore"] = "/config.local\n/tmp\n/cache\n"
    new = {path: text for path, text in texts.items() if not path.exists()}
    for path, text in new.items():
        write_file(path, text)
    return sorted(new)


def graph_without_source() -> dict[str, object]:
    """The content of dvc.yaml that comes with the code, with notes of `sohes code` in place of source files."""
    graph = read_mapping(TEMPLATE.graph)
    notes = {name: str(HERE.code(name)) for name in STAGES}
    outs = [{note: {"cache": False}} for note in notes.values()]
    code = {"cmd": f"python -m sohes {CODE}", "always_changed": True, "outs": outs}
    for name, stage in graph["stages"].items():
        stage["deps"] = [notes[name], *(dep for dep in stage["deps"] if not dep.startswith("sohes/"))]
    return {**graph, "stages": {CODE: code, **graph["stages"]}}
