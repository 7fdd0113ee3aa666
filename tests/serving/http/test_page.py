"""The page at /, in a real browser."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from naflex_deploy.serving.http.limits import Limits
from tests.serving.http.browser import PROGRAM, browser
from tests.serving.support import pixels, png, running, vector
from tests.support.bundles import LABELS, projection

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine: apt-get install chromium")

SIZES = [(8, 12), (16, 4), (4, 4), (12, 16), (8, 8), (16, 16)]
IMAGES = [pixels(seed, *size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def page():
    with browser() as found:
        yield found


DROP = """files => {
    const data = new DataTransfer();
    for (const [name, text] of files) {
        const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
        data.items.add(new File([bytes], name, { type: "image/png" }));
    }
    for (const type of ["dragenter", "dragover", "drop"])
        document.getElementById("drop").dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true }));
}"""


def drop(page, images) -> None:
    """Drop files on the page, as a user does: the browser makes the event and its files."""
    files = [(f"image-{i}.png", base64.b64encode(content).decode()) for i, content in enumerate(images)]
    page.evaluate(f"({DROP})({json.dumps(files)})")


def opened(page, url: str) -> None:
    page.events.clear()
    page.call("Page.navigate", url=url)
    page.wait("document.readyState === 'complete' && document.querySelectorAll('#model option').length > 0")


def no_foreign_requests(page, url: str) -> bool:
    sent = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    return all(found.startswith((url, "blob:", "data:", "about:")) for found in sent)


def test_dropped_images_are_classified_and_their_packs_drawn(page):
    with running() as server:
        opened(page, server.url + "/")
        drop(page, [png(image) for image in IMAGES])
        page.wait("!document.getElementById('result').hidden")
        rows = page.evaluate("[...document.querySelectorAll('#rows tr')].map(row => row.children[2].textContent)")
        for text, image in zip(rows, IMAGES, strict=True):
            logits = vector(image).astype(np.float64) @ projection()[1].astype(np.float64)
            assert text.startswith(LABELS[int(np.argmax(logits))])
        pieces = page.evaluate(
            "[...document.querySelectorAll('.piece')].map(p => [p.title, p.getBoundingClientRect().width,"
            " p.parentElement.getBoundingClientRect().width])"
        )
        assert len(pieces) == len(IMAGES)
        tokens = {f"image-{i}.png": h * w // 16 for i, (h, w) in enumerate(SIZES)}
        for title, width, whole in pieces:
            assert width / whole == pytest.approx(tokens[title.partition(":")[0]] / 64, abs=0.02)
        assert page.evaluate("[...document.querySelectorAll('#rows img')].every(i => i.complete && i.naturalWidth > 0)")
        assert "images/s" in page.evaluate("document.getElementById('time').textContent")
        assert page.evaluate("document.getElementById('problem').textContent") == ""
        assert no_foreign_requests(page, server.url)
        logged = [e["params"]["entry"] for e in page.events if e.get("method") == "Log.entryAdded"]
        assert not [entry for entry in logged if entry["level"] == "error"]
        assert not [e for e in page.events if e.get("method") == "Runtime.exceptionThrown"]


def test_a_refused_image_is_explained_and_a_key_is_asked_for(page):
    with running(limits=Limits(aspect=3), keys=("secret",)) as server:
        page.call("Page.navigate", url=server.url + "/")
        page.wait("document.readyState === 'complete' && !document.getElementById('keyrow').hidden")
        page.evaluate("key.value = 'secret'; key.dispatchEvent(new Event('change'))")
        page.wait("document.querySelectorAll('#model option').length === 1")
        drop(page, [png(IMAGES[0]), png(IMAGES[1])])
        page.wait("document.getElementById('problem').textContent !== ''")
        assert "input[1]: expected an aspect ratio of at most 3:1" in page.evaluate("problem.textContent")
        drop(page, [png(IMAGES[0])])
        page.wait("!document.getElementById('result').hidden && problem.textContent === ''")


def test_without_classes_neighbours_are_shown(page):
    with running() as server:
        opened(page, server.url + "/")
        page.evaluate("models.forEach(model => { model.classes = 0; })")
        drop(page, [png(IMAGES[0]), png(IMAGES[3]), png(IMAGES[5])])
        page.wait("!document.getElementById('result').hidden")
        vectors = [vector(image).astype(np.float64) for image in (IMAGES[0], IMAGES[3], IMAGES[5])]
        unit = np.stack([v / np.linalg.norm(v) for v in vectors])
        cosines = unit @ unit.T - 2 * np.eye(3)
        rows = page.evaluate("[...document.querySelectorAll('#rows tr')].map(row => row.children[2].textContent)")
        for index, text in enumerate(rows):
            best = int(np.argmax(cosines[index]))
            assert text.startswith(f"image-{best}.png {cosines[index][best]:.3f}")
