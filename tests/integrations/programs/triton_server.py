"""NVIDIA's Triton Server, as its Python package carries it, with the repositories that we write."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import pytriton
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import naflex_deploy as nd
from naflex_deploy.serving.triton_server.repository import write_repository

STAND_IN = '''
import os
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What the server's backend for ONNX Runtime does, which its Python package leaves out."""

    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        self._session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"))

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {i.name: pb_utils.get_input_tensor_by_name(request, i.name).as_numpy()
                     for i in self._session.get_inputs()}
            names = [output.name for output in self._session.get_outputs()]
            found = zip(names, self._session.run(names, feeds))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in found]))
        print("ran", len(requests), flush=True)
        return answers
'''


def server_files(folder: Path) -> Path:
    """The server's files, with the interpreter of its Python backend where it looks for it."""
    source = Path(pytriton.__file__).parent / "tritonserver"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("python_backend_stubs"))
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy2(source / "python_backend_stubs" / version / stub, folder / "backends" / "python" / stub)
    return folder


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(files: Path, repository: Path, log: Path) -> Iterator[tuple[str, str]]:
    """Start the server, wait until it is ready, and give its addresses for HTTP and gRPC."""
    http, grpc = free_port(), free_port()
    libraries = Path(pytriton.__file__).parents[1] / "nvidia_pytriton.libs"
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    arguments = [f"--http-port={http}", f"--grpc-port={grpc}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    arguments += [f"--model-repository={repository}", f"--backend-directory={files / 'backends'}"]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [files / "bin" / "tritonserver", *arguments, "--allow-metrics=false"],
            env=environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{http}")
        while not _ready(client):
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        server.terminate()
        server.wait(60)


def _ready(client: tritonclient.http.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except (ConnectionError, OSError):
        return False


def check(http: str, grpc: str, name: str) -> None:
    """The server's vectors are the engine's, over both protocols, and bad images are the client's fault."""
    for kind, address in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
        client = kind.InferenceServerClient(address)

        def infer(images: list[bytes], client: object = client, kind: object = kind) -> object:
            tensor = kind.InferInput("images", [len(images)], "BYTES")
            tensor.set_data_from_numpy(np.array(images, object))
            return client.infer(name, [tensor])

        found = infer(files)
        np.testing.assert_allclose(found.as_numpy("pooled"), engine.embed(files), atol=1e-5)
        grids = [list(grid.shape[:2]) for grid in engine.tokens(files)] if "tokens" in outputs else None
        assert grids is None or found.as_numpy("image_grid_hw").tolist() == grids
        with pytest.raises(InferenceServerException, match="image 1") as refused:
            infer([files[0], b"no image"])
        assert refused.value.status() in ("400", "StatusCode.INVALID_ARGUMENT"), refused.value


bundle, images = map(Path, sys.argv[1:])
engine = nd.load(bundle)
outputs = [spec.name for spec in engine.variant.outputs]
files = [file.read_bytes() for file in sorted(images.glob("*.png"))]
server = server_files(Path("server").resolve())

write_repository(bundle, Path("python"), python=True)
with serving(server, Path("python").resolve(), Path("python.log")) as addresses:
    check(*addresses, bundle.name)

write_repository(bundle, Path("ensemble"))
folder = Path("ensemble") / f"{bundle.name}_engine"
config = folder / "config.pbtxt"
config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
(folder / "1" / "model.py").write_text(STAND_IN)
with serving(server, Path("ensemble").resolve(), Path("ensemble.log")) as addresses:
    ran = Path("ensemble.log").read_text().count("ran 1")
    assert ran == len(engine.variant.budgets), "each budget is warmed up before the server is ready"
    check(*addresses, bundle.name)
