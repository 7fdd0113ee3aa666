#!/usr/bin/env bash
# uvicorn 0.54.0 with httptools 0.9.0: a POST that offers another protocol ("Upgrade: h2c", as clients do that prefer HTTP/2)
# arrives without its body, although the offer is not taken up. With h11 in the place of httptools the body arrives.
# RFC 9110, 7.8: a server may ignore Upgrade, and then answers the request as if it was not there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat > "$folder/check.py" <<'PY'
import asyncio
import logging

import httptools
import uvicorn

logging.disable()


async def app(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    said = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"


async def lengths(http, offer):
    server = uvicorn.Server(uvicorn.Config(app, http=http, port=0, lifespan="off", ws="none", log_config=None))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n" + offer + b"content-length: 5\r\n\r\nhello")
    await writer.drain()
    found = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).split(b"\r\n")[0]
    said = await asyncio.wait_for(reader.readexactly(1), 10)
    writer.close()
    server.should_exit = True
    await running
    return found.decode(), said.decode()


seen = {(http, bool(offer)): asyncio.run(lengths(http, offer)) for http in ("httptools", "h11") for offer in (b"", OFFER)}
for key, value in seen.items():
    print(*key, *value)
ok = "HTTP/1.1 200 OK"
assert seen["httptools", False] == (ok, "5")
assert seen["httptools", True] == (ok, "0"), "the body arrives: the finding is out of date"
assert seen["h11", False] == seen["h11", True] == (ok, "5")
print("uvicorn", uvicorn.__version__, "httptools", httptools.__version__, "drops the body of a request that offers h2c")
PY
"$folder/env/bin/python" "$folder/check.py"
