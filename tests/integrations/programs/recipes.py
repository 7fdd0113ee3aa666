"""Run the recipe of docs/vector-databases.md that has the heading HEADING on an output of our own.

recipes.py HEADING SUFFIX BUNDLE IMAGES
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import naflex_deploy as nd
from naflex_deploy.cli import main

heading, suffix, bundle, images = sys.argv[1:]
output = Path(f"pages.{suffix}")
for _ in range(2):  # the second run replaces the first
    result = CliRunner().invoke(main, ["embed", bundle, images, "-o", str(output), "--force"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
again = CliRunner().invoke(main, ["embed", bundle, images, "-o", str(output), "--resume"], catch_exceptions=False)
assert "complete already" in again.output, again.output

engine = nd.load(bundle)
page = (Path(__file__).parents[3] / "docs" / "vector-databases.md").read_text()
section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
(recipe,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
if "psycopg" in recipe:  # a server of the test's own, which comes as a wheel with pgvector in it
    import pgserver

    server = pgserver.get_server(Path("postgres").resolve())
    recipe = recipe.replace('"dbname=pages"', repr(server.get_uri()))
for text in ("a cat", "a photo of a dog"):
    query = engine.text.embed(text, normalize=True)
    found: dict[str, object] = {"query": query}
    exec(recipe.replace('path="qdrant"', f'path="qdrant-{len(text)}"'), found)
    files = sorted(str(path) for path in Path(images).iterdir())
    rows = engine.embed(files, normalize=True, return_index=True)
    scores = rows.vectors @ query
    hits = found["hits"]
    expected = sorted(scores.tolist(), reverse=True)[:5]
    np.testing.assert_allclose([hit[2] for hit in hits], expected, atol=1e-5)
    searched = CliRunner().invoke(main, ["search", str(output), text, "--bundle", bundle, "--json"])
    assert searched.exit_code == 0, searched.output
    cosines = [hit["cosine"] for hit in json.loads(searched.stdout)["hits"]]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    for path, frame, score in hits:
        (place,) = np.flatnonzero((rows.inputs == files.index(path)) & (rows.frames == frame))
        assert abs(scores[place] - score) < 1e-5
