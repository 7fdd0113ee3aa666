"""The repository for NVIDIA Triton Server: its configuration against the public schema, its models run by hand."""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient
from click.testing import CliRunner
from google.protobuf import text_format

from naflex_deploy.cli import main
from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.serving.triton_server.repository import write_repository
from tests.serving.support import pixels, png, vector
from tests.support.bundles import write_summing_bundle
from tests.support.manifests import edit

IMAGES = [pixels(0), pixels(1, 16, 4), pixels(2, 4, 4)]
DTYPES = {"TYPE_UINT8": np.uint8, "TYPE_INT32": np.int32}


def imported(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema():
    """The public protobuf schema of `config.pbtxt`, without the gRPC client around it."""
    return imported("model_config_pb2", Path(tritonclient.__file__).parent / "grpc" / "model_config_pb2.py")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    found = CliRunner().invoke(
        main, ["triton-server-repo", str(write_summing_bundle(folder / "sums")), "-o", str(folder / "repo")]
    )
    assert found.exit_code == 0, found.output
    return folder / "repo"


@pytest.fixture(scope="module")
def configs(repository, schema):
    found = {}
    for folder in repository.iterdir():
        found[folder.name] = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
        assert found[folder.name].name == folder.name
        assert (folder / "1").is_dir()
    return found


def test_the_ensemble_connects_its_models(configs, schema):
    assert set(configs) == {"sums", "sums_preprocess", "sums_engine"}
    ensemble = configs["sums"]
    available = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = configs[step.model_name]
        assert {tensor.name for tensor in model.input} == set(step.input_map)
        for tensor in model.input:
            assert available[step.input_map[tensor.name]] == (tensor.data_type, list(tensor.dims))
        outputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in model.output}
        available |= {step.output_map[name]: outputs[name] for name in step.output_map}
    for tensor in ensemble.output:
        assert available[tensor.name] == (tensor.data_type, list(tensor.dims))
    assert [t.name for t in ensemble.output] == ["pooled", "logits", "tokens", "image_grid_hw"]


def test_the_engine_is_what_its_configuration_says(repository, configs, schema):
    session = ort.InferenceSession(repository / "sums_engine" / "1" / "model.onnx")
    config = configs["sums_engine"]
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 0)
    types_of = {
        "tensor(uint8)": schema.TYPE_UINT8,
        "tensor(int32)": schema.TYPE_INT32,
        "tensor(float)": schema.TYPE_FP32,
    }
    for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert {t.name: (t.data_type, len(t.dims)) for t in ours} == {
            t.name: (types_of[t.type], len(t.shape)) for t in theirs
        }
    assert [warm_up.name for warm_up in config.model_warmup] == ["16 tokens", "64 tokens"]
    for warm_up in config.model_warmup:
        assert warm_up.batch_size == 1
        feeds = {}
        for name, tensor in warm_up.inputs.items():
            content = (repository / "sums_engine" / "warmup" / tensor.input_data_file).read_bytes()
            feeds[name] = np.frombuffer(content, DTYPES[schema.DataType.Name(tensor.data_type)]).reshape(tensor.dims)
        assert all(np.isfinite(values).all() for values in session.run(None, feeds))


def test_the_warm_up_of_a_model_that_merges_blocks_divides_into_them(tmp_path, schema):
    bundle = write_summing_bundle(tmp_path / "sums")
    edit(bundle, lambda content: content["preprocessing"].update(merge=3))
    write_repository(bundle, tmp_path / "repo")
    config = text_format.Parse((tmp_path / "repo/sums_engine/config.pbtxt").read_text(), schema.ModelConfig())
    segments = [warm_up.inputs["segment_ids"] for warm_up in config.model_warmup]
    assert [list(tensor.dims) for tensor in segments] == [[16], [64]]
    for tensor, tokens in zip(segments, (9, 63), strict=True):
        values = np.frombuffer((tmp_path / "repo/sums_engine/warmup" / tensor.input_data_file).read_bytes(), np.int32)
        assert (values == 0).sum() == tokens


class _Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


class _Error(str):
    INVALID_ARG = 3

    def __new__(cls, message, code=None):
        found = super().__new__(cls, message)
        found.code = code
        return found


class _Response:
    def __init__(self, output_tensors=(), error=None):
        self.tensors, self.error = {t.name: t.values for t in output_tensors}, error


@pytest.fixture
def backend(monkeypatch):
    """The module that the server's Python backend gives to models."""
    server = types.SimpleNamespace(
        Tensor=_Tensor,
        InferenceResponse=_Response,
        TritonError=_Error,
        get_input_tensor_by_name=lambda request, name: _Tensor(name, request[name]),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)


def started(folder):
    model = imported("triton_model", folder / "1" / "model.py").TritonPythonModel()
    model.initialize({"model_repository": str(folder), "model_version": "1"})
    return model


@pytest.fixture
def preprocess(repository, backend):
    return started(repository / "sums_preprocess")


def test_the_python_model_and_the_engine_give_the_bundles_results(repository, configs, preprocess):
    good = {"images": np.array([png(image) for image in IMAGES], object)}
    bad = {"images": np.array([png(IMAGES[0]), b"no image"], object)}
    many = {"images": np.array([png(pixels(5, 16, 16))] * 5, object)}
    found, refused, too_many = preprocess.execute([good, bad, many])
    assert set(found.tensors) == {tensor.name for tensor in configs["sums_preprocess"].output}
    session = ort.InferenceSession(repository / "sums_engine" / "1" / "model.onnx")
    feeds = {tensor.name: found.tensors[tensor.name] for tensor in session.get_inputs()}
    pooled = session.run(["pooled"], feeds)[0]
    np.testing.assert_allclose(pooled, np.stack([vector(image) for image in IMAGES]), rtol=1e-5, atol=1e-6)
    assert found.tensors["image_grid_hw"].tolist() == [[2, 3], [4, 1], [1, 1]]
    assert "image 1" in refused.error
    assert refused.error.code == too_many.error.code == _Error.INVALID_ARG
    assert "at most 64 tokens" in too_many.error


def test_a_bundle_runs_in_the_python_backend_alone(tmp_path, configs, schema, backend):
    bundle = write_summing_bundle(tmp_path / "sums")
    arguments = ["triton-server-repo", str(bundle), "-o", str(tmp_path / "repo"), "--python"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    (folder,) = (tmp_path / "repo").iterdir()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("sums", "python", 0)
    assert config.input == configs["sums"].input
    assert config.output == configs["sums"].output
    images = [*IMAGES, *[pixels(5, 16, 16)] * 5]  # More than fit into a pack.
    good = {"images": np.array([png(image) for image in images], object)}
    bad = {"images": np.array([png(images[0]), b"no image"], object)}
    found, refused, none = started(folder).execute([good, bad, {"images": np.array([], object)}])
    assert set(found.tensors) == {tensor.name for tensor in config.output}
    np.testing.assert_allclose(found.tensors["pooled"], np.stack(list(map(vector, images))), rtol=1e-5, atol=1e-6)
    assert found.tensors["image_grid_hw"].tolist() == [[2, 3], [4, 1], [1, 1], *[[4, 4]] * 5]
    assert found.tensors["tokens"].shape == (6 + 4 + 1 + 5 * 16, configs["sums"].output[2].dims[1])
    assert refused.error.startswith("image 1: ")
    assert none.error == "expected an image, found none"
    assert refused.error.code == none.error.code == _Error.INVALID_ARG


@pytest.mark.parametrize("model", ["preprocess_model.py", "bundle_model.py"])
def test_the_copied_model_depends_on_one_public_module(model):
    """What was copied out must go on running while modules inside the package move."""
    source = ast.parse(files("naflex_deploy.serving.triton_server").joinpath(model).read_text())
    nodes = [node for node in ast.walk(source) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}
    assert {name for name in modules if name.startswith("naflex_deploy")} == {"naflex_deploy.serving.triton_server"}


def test_an_unknown_variant_is_refused(tmp_path):
    bundle = write_summing_bundle(tmp_path / "sums")
    with pytest.raises(UsageError, match="no variant 'other'"):
        write_repository(bundle, tmp_path / "repo", variant="other")
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ({"fit": "tiles"}, ["image.fit=shrink-only"]),
        ({"oversize": "tiles"}, ["image.oversize=shrink"]),
        ({"fit": "tiles", "oversize": "tiles"}, ["image.fit=shrink-only", "image.oversize=shrink"]),
    ],
)
def test_a_profile_of_tiles_is_refused_and_shrinks_on_request(section, settings, tmp_path):
    bundle = write_summing_bundle(tmp_path / "sums")
    manifest = Manifest.read(bundle)
    image = manifest.config.image.model_copy(update=section)
    tiled = manifest.model_copy(update={"config": manifest.config.model_copy(update={"image": image})})
    (bundle / FILE_NAME).write_text(tiled.to_json())
    with pytest.raises(IncompatibleError, match="cuts images into tiles") as refused:
        write_repository(bundle, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()
    assert refused.value.hint.endswith(": " + " ".join(f"--set {setting}" for setting in settings))
    write_repository(bundle, tmp_path / "repo", settings=settings)
    written = Manifest.read(tmp_path / "repo" / "sums_preprocess" / "1").config.image
    assert not written.tiled
    assert written.model_copy(update=section) == image
