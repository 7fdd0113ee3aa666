"""Ask the server what its OpenAPI document allows, and what it does not, and check every answer against the document.

python schemathesis.py BUNDLE IMAGES
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from naflex_deploy.serving.http.limits import Limits
from tests.serving.support import running

EXAMPLES = 30

CONFIGURATION = """
[parameters]
"path.name" = "sums"

[checks]
# A request may name a time that is too short.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
# No schema describes the bytes of an image.
positive_data_acceptance.enabled = false
"""


def main() -> int:
    st = Path(sys.executable).with_name("schemathesis")
    with TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(CONFIGURATION)
        for keys in ((), ("secret",)):
            with running(keys=keys, limits=Limits(receive_seconds=3)) as server:
                command = [str(st), "run", f"{server.url}/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "7"]
                header = ["--header", "authorization: Bearer secret"] if keys else []
                if failed := subprocess.run([*command, *header], cwd=folder).returncode:
                    return failed
    return 0


if __name__ == "__main__":
    sys.exit(main())
