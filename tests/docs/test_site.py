"""The pages of the documentation site: every one is reachable, links lead somewhere, generated ones are complete."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from click import Context
from click.testing import CliRunner
from markdown.extensions.toc import slugify

from docs.site.check import problems
from docs.site.pages import BrokenLinks, gather, numbered, relink, sources
from naflex_deploy.cli import main
from tests.serving.support import running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    gather(folder)
    return folder / "pages"


def section(text: str, heading: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return str(found)


def listed(entries: object) -> list[str]:
    """Every page below an entry of the navigation."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in listed(value)]


def test_the_navigation_lists_every_page_once(pages):
    config = tomllib.loads((pages.parent / "zensical.toml").read_text(encoding="utf-8"))
    there = sorted(path.relative_to(pages).as_posix() for path in pages.rglob("*.md"))
    assert sorted(listed(config["project"]["nav"])) == there
    assert len(there) > 25


def anchors(page: Path) -> set[str]:
    lines = numbered(page.read_text(encoding="utf-8"))
    return {
        slugify(line.lstrip("# ").replace("`", ""), "-") for _, line, code in lines if line.startswith("#") and not code
    }


def test_every_internal_link_leads_somewhere(pages):
    links = [
        (page, target)
        for page in pages.rglob("*.md")
        for _, line, code in numbered(page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", line)
        if not code and not target.startswith("http")
    ]
    assert len(links) > 25
    for page, target in links:
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.is_file(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}"


def test_a_link_to_a_file_that_is_not_there_stops_the_build(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "edge.md"
    text, files, missing = relink(
        "[a](serving.md#x) [b](../LICENSE)\n```\n[c](d.md)\n```\n[e](no.md)", "edge.md", page, sources()
    )
    assert text == "[a](serving.md#x) [b](files/LICENSE)\n```\n[c](d.md)\n```\n[e](no.md)\n"
    assert list(files) == ["files/LICENSE"]
    assert missing == ["docs/edge.md:5: there is no file 'no.md'"]
    monkeypatch.setattr("docs.site.pages.sources", lambda: {"broken.md": write(tmp_path / "broken.md", "[x](y.md)")})
    monkeypatch.setattr("docs.site.pages.ROOT", tmp_path)
    with pytest.raises(BrokenLinks, match=r"broken\.md:1: there is no file 'y\.md'"):
        gather(tmp_path / "site")


def test_every_command_and_path_that_a_page_names_exists(pages):
    root = Path(__file__).parents[2]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages.glob("*.md"))
    modules = set(re.findall(r"python -m ((?:benchmarks|naflex_deploy)[\w.]+)", text))
    assert len(modules) > 15
    for module in modules:
        assert find_spec(module) is not None, module
    paths = set(re.findall(r"\b((?:tests|benchmarks|examples|naflex_deploy|docs)/[\w/]+\.\w+)", text))
    assert len(paths) > 10
    for path in paths:
        assert (root / path).is_file(), path
    commands = set(re.findall(r"(?:\$ |`)naflex-deploy ([a-z-]+)", text))
    assert commands < set(main.list_commands(Context(main)))


@pytest.mark.parametrize("name", ["build", "plan", "embed", "serve", "bundle sign", "triton-server-repo"])
def test_the_reference_has_every_option_of_a_command(pages, name):
    text = section((pages / "reference" / "cli.md").read_text(encoding="utf-8"), f"naflex-deploy {name}")
    shown = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=500).output
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown, re.MULTILINE))
    assert "--help" in options
    assert options == set(re.findall(r"^\| `(?:-\w, )?(--[a-z-]+)", text, re.MULTILINE))


def test_the_reference_has_every_command(pages):
    text = (pages / "reference" / "cli.md").read_text(encoding="utf-8")
    for name in re.findall(
        r"^  ([a-z-]+) ", CliRunner().invoke(main, ["--help"]).output.partition("Commands:")[2], re.M
    ):
        assert f"## naflex-deploy {name}\n" in text


def test_the_reference_has_every_key_of_a_profile_with_its_meaning(pages):
    text = (pages / "reference" / "profile.md").read_text(encoding="utf-8")
    shown = json.loads(CliRunner().invoke(main, ["profiles", "doc-ocr", "--json"]).output)

    def check(path: str, values: dict[str, object]) -> None:
        part = section(text, f"[{path}]" if path else "Top level")
        for key, value in values.items():
            if isinstance(value, dict) and key != "thresholds":
                check(f"{path}.{key}".lstrip("."), value)
                continue
            ((_, default, meaning),) = re.findall(rf"^\| `{key}` \| (.*) \| (.*) \| (.*) \|$", part, re.MULTILINE)
            assert default
            assert len(meaning) > 10, f"{path}.{key} has no description in the docstring of its section"

    check("", shown["profile"])
    assert '| `fit` | `"fill"`, `"shrink-only"`, `"pad-to-patch"`, `"tiles"`, `"model"` | `"fill"` |' in text
    assert "| `threshold` | number from 0 to 1 | `0.0` |" in text


def test_the_reference_has_every_route_of_a_running_server(pages):
    text = (pages / "reference" / "http.md").read_text(encoding="utf-8")
    with running(names=("doc-ocr",)) as server:
        served = httpx.get(f"{server.url}/openapi.json").json()
    assert served == json.loads((pages / "reference" / "openapi.json").read_text(encoding="utf-8"))
    routes = {f"{method.upper()} {path}" for path, methods in served["paths"].items() for method in methods}
    assert routes == set(re.findall(r"^## (.*)$", text, re.MULTILINE))
    body = section(text, "POST /v1/embeddings")
    assert "`multipart/form-data`" in body
    assert "| `encoding_format` |" in body
    assert re.search(
        r"^Each of `data`:\n\n(\|.*\n)+\| `embedding` \| array of number or string \| required \|", body, re.MULTILINE
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_wrong_with_a_built_site(tmp_path):
    write(tmp_path / "b.html", '<h1 id="here">b</h1>')
    write(
        tmp_path / "a.html", '<a href="b.html#here"></a><a href="https://example.org"></a><img src="data:image/png,">'
    )
    assert problems(tmp_path) == []
    write(
        tmp_path / "a.html",
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//fonts.example/f.css">'
        '<p style="background: url(http://img.example/i.png)"><a href="b.html#gone"></a><a href="c.html"></a>',
    )
    write(tmp_path / "s.css", "@import 'https://fonts.example/g.css'; p { background: url(local.png) }")
    assert problems(tmp_path) == [
        "a.html: loads https://cdn.example/x.js",
        "a.html: loads //fonts.example/f.css",
        "a.html: loads http://img.example/i.png",
        "a.html: links to b.html#gone, a page without that anchor",
        "a.html: links to c.html, which is not there",
        "s.css: loads https://fonts.example/g.css",
    ]
