"""The page at /, in a real browser."""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from naflex_deploy.runtime.scheduling.texts import TextQueue
from naflex_deploy.serving.http.limits import Limits
from tests.serving.http.browser import PROGRAM, browser
from tests.serving.support import pixels, png, running, summing_model, vector
from tests.support.bundles import LABELS, projection
from tests.support.pdfs import pdf, rectangle

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


def drop(page, files: dict[str, bytes]) -> None:
    """Drop files on the page, as a user does: the browser makes the event and its files."""
    sent = [(name, base64.b64encode(content).decode()) for name, content in files.items()]
    page.evaluate(f"({DROP})({json.dumps(sent)})")
    page.wait("!document.getElementById('result').hidden")


def named(images) -> dict[str, bytes]:
    return {f"image-{i}.png": png(image) for i, image in enumerate(images)}


def texts(page, selector: str) -> list[str]:
    return page.evaluate(f"[...document.querySelectorAll('{selector}')].map(found => found.textContent)")


def rows(page) -> list[list[str]]:
    """What each card of the gallery says: its name, then its classes or neighbours, each with its score."""
    script = (
        "card => [card.querySelector('.name'), ...card.querySelectorAll('.found li')].map(found => found.innerText)"
    )
    cards = page.evaluate(f"[...document.querySelectorAll('#gallery > li')].map({script})")
    return [["".join(part.split("\n")) for part in card] for card in cards]


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def press(page, key: str) -> None:
    code = {"Tab": 9, "Enter": 13}[key]
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def opened(page, url: str) -> None:
    page.events.clear()
    page.call("Page.navigate", url=url)
    page.wait("document.readyState === 'complete' && document.querySelectorAll('#model option').length > 0")


def no_foreign_requests(page, url: str) -> bool:
    sent = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    return all(found.startswith((url, "blob:", "data:", "about:")) for found in sent)


def no_errors(page) -> bool:
    logged = [e["params"]["entry"]["level"] for e in page.events if e.get("method") == "Log.entryAdded"]
    return "error" not in logged and not [e for e in page.events if e.get("method") == "Runtime.exceptionThrown"]


def test_dropped_images_are_classified_and_their_packs_drawn(page):
    with running() as server:
        opened(page, server.url + "/")
        drop(page, named(IMAGES))
        found = rows(page)
        for number, ((name, *classes), image) in enumerate(zip(found, IMAGES, strict=True)):
            logits = vector(image).astype(np.float64) @ projection()[1].astype(np.float64)
            assert name == f"image-{number}.png"
            assert classes[0].startswith(LABELS[int(np.argmax(logits))])
        assert not page.evaluate("document.querySelector('#packs img').checkVisibility()")  # folded
        page.evaluate("document.querySelector('details').open = true")
        page.wait("[...document.querySelectorAll('#result img')].every(i => i.complete && i.naturalWidth > 0)")
        fits = page.evaluate("[...document.querySelectorAll('#result img')].map(i => getComputedStyle(i).objectFit)")
        assert fits == ["contain"] * 2 * len(IMAGES)  # whole, never cropped
        pieces = page.evaluate(
            "[...document.querySelectorAll('.piece')].map(p => [p.title, p.getBoundingClientRect().width,"
            " p.parentElement.getBoundingClientRect().width])"
        )
        assert len(pieces) == len(IMAGES)
        tokens = {f"image-{i}.png": h * w // 16 for i, (h, w) in enumerate(SIZES)}
        for title, width, whole in pieces:
            assert width / whole == pytest.approx(tokens[title.partition(":")[0]] / 64, abs=0.02)
        assert "images/s" in page.evaluate("document.getElementById('time').textContent")
        assert page.evaluate("document.getElementById('problem').textContent") == ""
        assert no_foreign_requests(page, server.url)
        assert no_errors(page)


def test_a_refused_image_has_a_row_of_its_own_and_a_key_is_asked_for(page):
    with running(limits=Limits(aspect=3), keys=("secret",)) as server:
        page.call("Page.navigate", url=server.url + "/")
        page.wait("document.readyState === 'complete' && !document.getElementById('keyrow').hidden")
        page.evaluate("key.value = 'secret'; key.dispatchEvent(new Event('change'))")
        page.wait("document.querySelectorAll('#model option').length === 1")
        drop(page, named(IMAGES[:2]) | {"notes.txt": b"hello"})
        assert [card[0] for card in rows(page)] == ["image-0.png"]
        wide, notes = texts(page, "#errors li")
        assert wide.startswith("image-1.png: expected an aspect ratio of at most 3:1")
        assert notes.startswith("notes.txt: ")
        assert notes.endswith("convert it to one of these formats")  # the server's hint
        assert page.evaluate("document.getElementById('status').textContent").startswith("1 result, 2 errors in")
        drop(page, named(IMAGES[:1]))
        page.wait("document.querySelectorAll('#errors li').length === 0 && problem.textContent === ''")
        assert "Authorization" in page.evaluate("describe(), document.getElementById('request').textContent")


def test_files_too_large_for_one_request_are_sent_in_several(page):
    with running(limits=Limits(body_bytes=2000)) as server:
        opened(page, server.url + "/")
        files = named(IMAGES) | {"large.png": png(pixels(0, 40, 40))}
        assert len(files["large.png"]) > 2000
        page.evaluate("part = 1000")
        drop(page, files)
        assert [card[0] for card in rows(page)] == list(named(IMAGES))
        (error,) = texts(page, "#errors li")
        assert error.startswith("large.png: expected at most 2000 bytes, found")


def test_without_classes_neighbours_are_shown(page):
    with running() as server:
        opened(page, server.url + "/")
        page.evaluate("models.forEach(model => { model.classes = 0; })")
        images = [IMAGES[0], IMAGES[3], IMAGES[5]]
        drop(page, named(images))
        vectors = unit([vector(image) for image in images])
        cosines = vectors @ vectors.T - 2 * np.eye(3)
        for index, (_, *near) in enumerate(rows(page)):
            best = int(np.argmax(cosines[index]))
            assert near[0] == f"image-{best}.png{cosines[index][best]:.3f}"


TEXT_VECTORS = {"a receipt": pixels(91, 4, 4), "a photo": pixels(92, 4, 4)}


def two_towers(name, path):
    """A model that also embeds texts: each as an image of its own is."""

    def encode(found):
        return np.stack([vector(TEXT_VECTORS[text]) for text in found]), np.ones(len(found), np.int64)

    return replace(summing_model(name), texts=TextQueue(encode))


def test_pictures_and_pages_are_searched_in_words(page):
    scan = BytesIO()
    first, *others = map(Image.fromarray, IMAGES[3:6])
    first.save(scan, "TIFF", save_all=True, append_images=others)
    files = {"scan.tiff": scan.getvalue()} | named(IMAGES[:2])
    names = ["scan.tiff, page 1", "scan.tiff, page 2", "scan.tiff, page 3", "image-0.png", "image-1.png"]
    vectors = unit([vector(image) for image in [*IMAGES[3:6], *IMAGES[:2]]])
    with running(load=two_towers) as server:
        opened(page, server.url + "/")
        drop(page, files)
        assert [card[0] for card in rows(page)] == names
        page.wait("[...document.querySelectorAll('#gallery img')].every(i => i.complete && i.naturalWidth > 0)")
        sides = page.evaluate(
            "[...document.querySelectorAll('#gallery img')].map(i => i.naturalHeight / i.naturalWidth)"
        )
        for side, image in zip(sides, [*IMAGES[3:6], *IMAGES[:2]], strict=True):
            assert side == pytest.approx(image.shape[0] / image.shape[1])
        page.evaluate("query.focus()")
        for text, pixel in TEXT_VECTORS.items():
            page.evaluate(f"document.querySelector('#gallery').replaceChildren(); query.value = {text!r}")
            press(page, "Enter")
            page.wait("document.querySelector('b.score') !== null")
            cosines = vectors @ unit(vector(pixel))
            order = np.argsort(-cosines)
            assert [card[0] for card in rows(page)] == [names[i] for i in order]
            np.testing.assert_allclose([float(t) for t in texts(page, "b.score")], cosines[order], atol=0.0006)
        page.evaluate("query.value = ''; query.dispatchEvent(new Event('input'))")
        page.wait("document.querySelector('b.score') === null")
        assert [card[0] for card in rows(page)] == names
        assert no_errors(page)


def test_the_pages_of_a_pdf_are_seen(page):
    with running() as server:
        opened(page, server.url + "/")
        drop(
            page, {"form.pdf": pdf([rectangle(50, 50, 200, 500), rectangle(50, 600, 400, 90)]), "cut.pdf": pdf([])[:99]}
        )
        assert [card[0] for card in rows(page)] == ["form.pdf, page 1", "form.pdf, page 2"]
        page.wait("[...document.querySelectorAll('#gallery img')].every(i => i.complete && i.naturalWidth > 0)")
        sources = page.evaluate("[...document.querySelectorAll('#gallery img')].map(i => i.src)")
        assert len(set(sources)) == 2
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        (error,) = texts(page, "#errors li")
        assert error.startswith("cut.pdf: ")
        assert no_errors(page)


def test_the_model_and_a_request_are_shown_and_all_is_reached_by_keyboard(page):
    with running() as server:
        opened(page, server.url + "/")
        facts = dict(zip(texts(page, "#facts dt"), texts(page, "#facts dd"), strict=True))
        assert facts["variant"] == "onnxruntime-cpu-fp32"
        assert facts["precision"] == "fp32"
        assert facts["budget"] == "64 tokens a pack"
        command = shlex.split(page.evaluate("document.getElementById('request').textContent").replace("\\\n", ""))
        assert command == ["curl", f"{server.url}/v1/classify", "-F", "model=sums", "-F", "image=@page.png"]
        drop(page, named(IMAGES[:1]))
        page.evaluate("document.activeElement.blur()")
        reached = []
        while "copy" not in reached and len(reached) < 12:
            press(page, "Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
        assert reached == ["a", "model", "files", "summary", "request", "copy"]
        assert page.evaluate("document.getElementById('search').hidden")  # the model has no text tower
        page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        try:
            assert page.evaluate("document.documentElement.scrollWidth") == 390
        finally:
            page.call("Emulation.clearDeviceMetricsOverride")
