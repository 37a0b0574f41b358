import numpy as np
import pytest
import tensorflow as tf

from moco_tf.serving import warm_up
from tests.serving import plain_served

SIGNATURES = (
    "serving_default",
    "embed_images",
    "embed_tensors",
    "classify",
    "neighbours",
)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "model"
    plain_served.save(path)
    pairs = warm_up.requests(SIGNATURES, plain_served.RECIPE, plain_served.SIDE)
    warm_up.write(path, "encoder", pairs)
    return path


@pytest.fixture(name="served", scope="module")
def _served(folder):
    return tf.saved_model.load(str(folder)).signatures


def _logs(folder):
    """The messages of the file, as TensorFlow Serving's own code reads them."""
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    return [
        apis.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]


def test_the_file_lies_where_the_server_looks(folder):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    assert sum(1 for _ in tf.data.TFRecordDataset(str(path))) == 10


def test_every_signature_is_asked_for_one_row_and_for_several(folder):
    requests = [log.predict_log.request for log in _logs(folder)]
    assert {request.model_spec.name for request in requests} == {"encoder"}
    asked = sorted(
        (
            request.model_spec.signature_name,
            *(tensor.tensor_shape.dim[0].size for tensor in inputs.values()),
        )
        for request in requests
        for inputs in [request.inputs]
    )
    assert asked == sorted((name, n) for name in SIGNATURES for n in (1, 4))


def test_the_log_is_replayed_by_the_signatures(folder, served):
    for log in _logs(folder):
        request = log.predict_log.request
        inputs = {
            name: tf.constant(tf.make_ndarray(tensor))
            for name, tensor in request.inputs.items()
        }
        outputs = served[request.model_spec.signature_name](**inputs)
        if "valid" in outputs:
            assert outputs["valid"].numpy().all()
        rows = len(next(iter(inputs.values())))
        assert {len(values) for values in outputs.values()} == {rows}


def test_all_formats_are_asked_for(folder):
    tensors = [
        log.predict_log.request.inputs["image_bytes"].string_val
        for log in _logs(folder)
        if log.predict_log.request.model_spec.signature_name == "classify"
    ]
    first = {contents[:2] for tensor in tensors for contents in tensor}
    assert first == {b"\xff\xd8", b"\x89P", b"GI", b"BM"}


def test_a_predict_request_is_answered_by_name(served):
    apis = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    files = [plain_served.colour((9, 9, 9)), b"damaged"]
    request = apis.PredictRequest()
    request.model_spec.name = "encoder"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(
        tf.make_tensor_proto(files, shape=[2])
    )
    sent = apis.PredictRequest.FromString(request.SerializeToString())

    signature = served[sent.model_spec.signature_name]
    inputs = signature.structured_input_signature[1]
    assert set(sent.inputs) == set(inputs)
    for name, tensor in sent.inputs.items():
        assert tf.as_dtype(tensor.dtype) == inputs[name].dtype
    outputs = signature(
        **{
            name: tf.constant(tf.make_ndarray(tensor))
            for name, tensor in sent.inputs.items()
        }
    )
    response = apis.PredictResponse()
    for name, values in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
    got = apis.PredictResponse.FromString(response.SerializeToString())

    assert set(got.outputs) == {"features", "normalised", "valid"}
    rows = tf.make_ndarray(got.outputs["features"])
    expected = plain_served.features(np.full([1, 8, 8, 3], 9))
    np.testing.assert_allclose(rows, [*expected, [0, 0, 0]], rtol=1e-4)
    assert tf.make_ndarray(got.outputs["valid"]).tolist() == [True, False]


def test_a_request_is_what_the_servers_own_code_writes():
    apis = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    pixels = np.arange(300, dtype=np.uint8).reshape(1, 10, 10, 3)
    request = apis.PredictRequest()
    request.model_spec.name = "a" * 200  # a length of two bytes
    request.model_spec.signature_name = "embed_images"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(pixels))
    written = warm_up.predict_request(
        "a" * 200, "embed_images", {"images": pixels}
    )
    assert apis.PredictRequest.FromString(written) == request
