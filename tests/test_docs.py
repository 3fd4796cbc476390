"""The documentation: it builds without a warning, loads nothing from elsewhere, and its commands work as written."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sohes import cli
from sohes.commands.bench import Bench
from sohes.data.imaging import encode_jpeg
from sohes.params import Params


class _Loaded(HTMLParser):
    """Addresses that a browser fetches without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        names = {"script": "src", "img": "src", "link": "href", "iframe": "src"}
        self.addresses += [value for name, value in attrs if name == names.get(tag) and value]


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_load_nothing_from_elsewhere(site):
    for page in site.glob("*.html"):
        loaded = _Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        assert not [address for address in loaded.addresses if "//" in address], page.name


def test_every_parameter_is_on_its_page_with_its_value_in_the_paper(site):
    page = (site / "parameters.html").read_text()
    for section, field in Params.model_fields.items():
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"<code>{key}</code>" in page or f"{section}.{key}" in page, f"{section}.{key}"
    assert "<code>40000</code>" in page


def test_every_command_and_option_that_the_pages_name_exists(repository):
    """In code blocks and in backquotes. Except the log, which is history, and benches, which have their own options."""
    known = {
        name: {option for p in cli.load(name).params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
        for name in cli.COMMANDS
    }
    pages = [page for page in (repository / "docs").glob("*.md") if page.name != "log.md"]
    named = [
        (name, set(re.findall(r"(?<=\s)--[a-z][a-z-]*", rest.partition("#")[0].partition("&&")[0])))
        for page in (repository / "README.md", *pages)
        for name, rest in re.findall(r"(?:^ *|`|&& )sohes ([a-z][a-z-]*)([^`\n]*)", page.read_text(), re.MULTILINE)
    ]
    assert len(named) > 50
    wrong = [(name, options - known.get(name, set())) for name, options in named]
    assert [(name, more) for name, more in wrong if name not in known or (more and name != "bench")] == []


def test_the_help_of_every_command_around_the_pipeline_fits_a_screen(repository):
    from typer.testing import CliRunner

    for name in cli.COMMANDS:
        told = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "80"}).output
        assert len(told.splitlines()) <= 40, name
        assert "xample: " in told, name
    for measurement in Bench:
        told = CliRunner().invoke(cli.app, ["bench", measurement.value, "--help"], env={"COLUMNS": "80"}).output
        assert f"Example: sohes bench {measurement.value}" in told
        assert len(told.splitlines()) <= 40, measurement


def test_the_python_examples_run_in_their_order(repository, tiny_model, tmp_path, monkeypatch, capsys):
    from skimage import data, io

    (tmp_path / "photos").mkdir()
    for photo in ("cat.jpg", "photos/cat.jpg", "photos/again.jpg"):
        io.imsave(tmp_path / photo, data.chelsea()[::4, ::4], check_contrast=False)
    shutil.copy(repository / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    names: dict[str, object] = {}
    for block in blocks(repository / "docs/python.md", "python"):
        exec(block, names)
    assert len(names["result"]) > 0
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.json")) == ["again.json", "cat.json"]
    assert all((tmp_path / name).stat().st_size for name in ("overlay.png", "whole-entities.png", "coco.json"))
    assert re.search(r"^\d+ masks, \d+ of them whole entities$", capsys.readouterr().out, re.MULTILINE)


def test_the_cells_of_the_notebook_run_in_their_order(repository, tmp_path, monkeypatch, capsys):
    """With the released model, and what a cell ends with as a notebook shows it."""
    from skimage import data, io

    io.imsave(tmp_path / "cat.jpg", data.chelsea()[::3, ::3], check_contrast=False)
    monkeypatch.chdir(tmp_path)
    cells = re.split(r"^# %%.*\n", (repository / "docs/notebook.py").read_text(), flags=re.MULTILINE)[1:]
    code = [ast.parse(cell) for cell in cells if ast.parse(cell).body]
    assert len(code) > 5
    names: dict[str, object] = {}
    shown = []
    for cell in code:
        last = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, "notebook.py", "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), "notebook.py", "eval"), names))
    assert "masks: " in shown[0]._repr_html_()
    assert shown[0]._repr_png_()
    told = capsys.readouterr().out
    assert re.search(r"^mask \d+: \d+ pixels", told, re.MULTILINE)
    assert re.search(r"^  mask \d+: \d+ pixels", told, re.MULTILINE), "nothing is a part of anything"
    assert json.loads((tmp_path / "cat.coco.json").read_text())["annotations"]
    assert (tmp_path / "masks/cat.json").exists()


def test_the_files_are_read_without_us(repository, tmp_path, monkeypatch):
    """As the page says, by pandas and pyarrow; an image without masks stands among the others."""
    from sohes.data.store.labels import write_shard
    from sohes.data.store.pack import pack_shard, shard_name, write_manifest
    from sohes.masks import empty_mask_set, mask_set
    from sohes.structures import ImageRecord

    photographs = {image_id: encode_jpeg(np.full((20, 30, 3), image_id, np.uint8)) for image_id in (5, 3, 9)}
    folder, labels = tmp_path / "data/images", tmp_path / "data/pseudo_labels/shard-00000.parquet"
    folder.mkdir(parents=True)
    candidates = [(image_id, f"{image_id}.jpg", jpeg) for image_id, jpeg in photographs.items()]
    packed = pack_shard(candidates, folder / shard_name(0), max_megapixels=1, apply_exif=True)
    write_manifest(folder, packed.entries, packed.rejected)
    drawn = np.zeros((2, 20, 30), bool)
    drawn[0, 2:15, 3:20] = drawn[1, 4:9, 5:12] = True
    found = {3: empty_mask_set(20, 30), 5: mask_set(drawn, parents=np.array([-1, 0])), 9: mask_set(drawn[:1])}
    write_shard(labels, [ImageRecord(i, f"{i}.jpg", "", masks) for i, masks in found.items()])
    monkeypatch.chdir(tmp_path)
    by_pandas, by_pyarrow = blocks(repository / "docs/formats.md", "python")
    names: dict[str, object] = {}
    exec(by_pandas, names)
    assert names["masks"][["image_id", "id", "parent", "level"]].to_numpy().tolist() == [
        [5, 0, -1, 0], [5, 1, 0, 1], [9, 0, -1, 0],
    ]  # fmt: skip
    assert np.array_equal(names["pixels"], drawn[0])
    exec(by_pyarrow, names)
    assert names["jpeg"] == photographs[5]
    assert [mask["area"] for mask in names["labels"]["masks"]] == [221, 35]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_python_example_runs(repository, page, tiny_model, tmp_path, monkeypatch):
    from skimage import data, io

    io.imsave(tmp_path / "cat.jpg", data.chelsea()[::4, ::4], check_contrast=False)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(repository / page, "python")
    exec(block, {})


def blocks(page: Path, language: str) -> list[str]:
    """The page's code in that language, block by block."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_every_path_of_the_readmes_tree_exists(repository):
    """Each line is a path and a description; indented paths are inside the folder above them."""
    (tree,) = [block for block in blocks(repository / "README.md", "text") if "sohes/\n" in block]
    folder, paths = repository, []
    for line in tree.splitlines():
        name, _, words = line.strip().partition(" ")
        inside = folder if line.startswith("  ") else repository
        paths.append(inside / name)
        if not line.startswith("  "):
            folder = repository / name
        # In a description, `ui.py: both web pages` names a path inside the folder, or next to the file.
        beside = paths[-1] if name.endswith("/") else inside
        paths += [beside / other for other in re.findall(r"([\w-]+(?:\.py|\.yaml|\.md|/))(?=[:,;])", words)]
    assert len(paths) > 30
    assert [str(path) for path in paths if not path.exists()] == []


def test_what_the_readme_names_in_backquotes_exists_or_is_made(repository):
    named = re.findall(r"`((?:params|docs|infra|flows|sohes|tests)/[\w./*-]+)`", (repository / "README.md").read_text())
    assert named
    assert [path for path in named if not list(repository.glob(path))] == []


def test_a_page_links_to_the_documents_it_names(repository):
    """In backquotes, the name of a page cannot be followed. The log is history, and commands make three pages."""
    written = {"log.md", "results.md", "ablations.md", "ablations-maps.md"}
    pages = [page for page in repository.glob("docs/*.md") if page.name not in written]
    for page in (repository / "README.md", repository / "CONTRIBUTING.md", *pages):
        assert re.findall(r"`(?:docs/)?[\w-]+\.md`", page.read_text()) == [], page.name
    for page in (repository / "README.md", repository / "CONTRIBUTING.md"):
        linked = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        assert linked
        assert [path for path in linked if not (repository / path).exists()] == [], page.name


def test_headings_that_the_readme_links_to_exist(repository):
    """As GitHub names them: in lower case, without punctuation, with hyphens for spaces."""
    linked = re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", (repository / "README.md").read_text())
    assert linked
    for path, anchor in linked:
        text = (repository / (path or "README.md")).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], anchor


def test_no_line_of_the_readmes_code_is_wider_than_github_shows(repository):
    """GitHub shows some 95 characters of a line of code beside its column of facts; the rest has to be scrolled to."""
    code = re.findall(r"^```\w*\n(.*?)^```", (repository / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert code
    assert [line for block in code for line in block.splitlines() if len(line) > 90] == []


def test_every_picture_is_small_and_shown(repository):
    text = (repository / "README.md").read_text() + "".join(p.read_text() for p in repository.glob("docs/*.md"))
    for picture in (repository / "docs/pictures").iterdir():
        assert picture.stat().st_size < 200_000, picture.name
        assert f"pictures/{picture.name}" in text
    for shown in re.findall(r"!\[[^\]]+\]\((?:docs/)?(pictures/[^)]+)\)", text):
        assert (repository / "docs" / shown).exists(), shown
