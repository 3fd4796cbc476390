"""The step of the build that pyproject.toml cannot name: the files of a project, which a checkout has at its top level,
lie in a wheel as `sohes/template/` (`sohes.project.TEMPLATE`)."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TEMPLATE = (
    "params.yaml", "params/**/*", "dvc.yaml", ".dvcignore", ".gitignore", "prefect.yaml",
    "infra/launch/*", "infra/kubernetes/**/*", "infra/prefect/*", "infra/slurm/*",
)  # fmt: skip


class WithTemplate(build_py):
    """`build_py`, and the template. Editable installs read the checkout's own files."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in TEMPLATE:
            files = [path for path in sorted(Path().glob(pattern)) if path.is_file()]
            if not files:
                raise SystemExit(f"setup.py: nothing here fits {pattern}: build in the whole source")
            for path in files:
                target = Path(self.build_lib, "sohes/template", path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(cmdclass={"build_py": WithTemplate})
