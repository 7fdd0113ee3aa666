"""What a replica of Ray Serve runs, without Ray: concurrent requests share packs, and bad ones are named."""

from __future__ import annotations

import asyncio
import base64

import httpx
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from naflex_deploy.serving.ray.serve import PackedEmbedder
from tests.serving.ray.support import IMAGES
from tests.serving.support import png, vector


def test_a_replica_packs_concurrent_requests(bundle):
    replica = PackedEmbedder(str(bundle))

    async def answer(request: Request) -> Response:
        return await replica(request)

    async def ask():
        found = await asyncio.gather(*(replica.embed([png(image)]) for image in IMAGES))
        transport = httpx.ASGITransport(app=Starlette(routes=[Route("/embed", answer, methods=["POST"])]))
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            sent = [base64.b64encode(png(image)).decode() for image in IMAGES]
            good = await client.post("/embed", json={"input": sent, "explain": True})
            bad = await client.post("/embed", json={"input": ["%"]})
        return found, good.json(), bad

    found, content, refused = asyncio.run(ask())
    for image, vectors, item in zip(IMAGES, found, content["data"], strict=True):
        np.testing.assert_allclose(vectors[0], vector(image), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(item["embedding"], vector(image), rtol=1e-4, atol=1e-5)
    assert len({item["packing"]["pack"] for item in content["data"]}) < len(IMAGES)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "input[0]")
