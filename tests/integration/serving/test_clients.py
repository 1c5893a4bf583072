"""Published clients of the Open Inference Protocol, and plain HTTP, get their scores."""

from __future__ import annotations

import gc
import json
import urllib.request
from collections.abc import Callable
from types import ModuleType
from typing import Any

import grpc
import mmh3
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from embery.rpc.v1 import inference_pb2 as pb
from embery.rpc.v1.inference_pb2_grpc import GRPCInferenceServiceStub

Serve = Callable[..., Any]
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CLIENTS = [tritonclient.http, tritonclient.grpc]
ARRAYS = {
    "x": np.array([1.0, 2.0, 3.0], np.float32),
    "user": np.array([10, 20, 30], np.int64),
    "clicked": np.array([7, 8, 9], np.uint64),
    "clicked.lengths": np.array([1, 0, 2], np.int32),
}
SCORES = [1018.0, 1022.0, 1050.0]

of_both_protocols = pytest.mark.parametrize("library", CLIENTS, ids=["http", "grpc"])


@pytest.fixture(autouse=True)
def _collect_clients() -> None:
    """Free the clients of the test before, in this thread: theirs is the only one that can."""
    gc.collect()


def connect(library: ModuleType, server: Any) -> Any:
    address = server.url.removeprefix("http://")
    return library.InferenceServerClient(
        address if library is tritonclient.http else server.grpc_address
    )


def inputs_of(library: ModuleType, arrays: dict[str, NDArray[Any]]) -> list[Any]:
    found = []
    for name, array in arrays.items():
        one = library.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array)
        found.append(one)
    return found


@of_both_protocols
def test_a_client_gets_scores_and_the_version_that_gave_them(
    serve: Serve, library: ModuleType
) -> None:
    with connect(library, serve()) as client:
        result = client.infer("ctr", inputs_of(library, ARRAYS), request_id="a7")
        assert result.as_numpy("score").tolist() == SCORES
        assert result.as_numpy("score").dtype == np.float32
        answer = result.get_response()
        about = answer if isinstance(answer, dict) else {"id": answer.id, "model_version": "1"}
        assert (about["id"], about["model_version"]) == ("a7", "1")
        named = client.infer("ctr", inputs_of(library, ARRAYS), model_version="1")
        assert named.as_numpy("score").tolist() == SCORES


@of_both_protocols
def test_a_client_learns_what_is_served(serve: Serve, library: ModuleType) -> None:
    with connect(library, serve(name="clicks")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("clicks")
        assert client.is_model_ready("clicks", "1")
        assert not client.is_model_ready("clicks", "2")
        assert not client.is_model_ready("other")
        as_json = {} if library is tritonclient.http else {"as_json": True}
        assert client.get_server_metadata(**as_json)["name"] == "embery"
        model = client.get_model_metadata("clicks", **as_json)
        assert model["versions"] == ["1"]
        assert [one["name"] for one in model["inputs"]] == [
            "x", "user", "clicked", "clicked.lengths",
        ]  # fmt: skip
        assert [(one["name"], one["datatype"]) for one in model["outputs"]] == [("score", "FP32")]


@of_both_protocols
def test_lists_of_one_length_come_as_a_matrix_and_single_values_as_a_column(
    serve: Serve, library: ModuleType
) -> None:
    arrays = {
        "x": np.array([[1.0], [2.0]], np.float64),
        "user": np.array([[1], [2]], np.uint8),
        "clicked": np.array([[1, 2], [3, 4]], np.int32),
    }
    with connect(library, serve()) as client:
        result = client.infer("ctr", inputs_of(library, arrays))
        assert result.as_numpy("score").tolist() == [1005.0, 1011.0]


@of_both_protocols
def test_strings_are_hashed_as_in_training(serve: Serve, library: ModuleType) -> None:
    words = np.array([b"ada", "größe".encode()], np.object_)
    arrays = {
        "x": np.zeros(2, np.float32),
        "user": words,
        "clicked": np.zeros((2, 0), np.int64),
    }
    with connect(library, serve()) as client:
        found = client.infer("ctr", inputs_of(library, arrays)).as_numpy("score")
    expected = [np.float32(mmh3.hash64(word, signed=False)[0]) for word in words]
    assert found.tolist() == expected


def test_scores_come_as_text_where_the_client_wants_it(serve: Serve) -> None:
    library = tritonclient.http
    with connect(library, serve()) as client:
        wanted = [library.InferRequestedOutput("score", binary_data=False)]
        result = client.infer("ctr", inputs_of(library, ARRAYS), outputs=wanted)
        assert result.get_response()["outputs"][0]["data"] == SCORES


@of_both_protocols
def test_an_unknown_output_is_refused(serve: Serve, library: ModuleType) -> None:
    with connect(library, serve()) as client:
        wanted = [library.InferRequestedOutput("logit")]
        with pytest.raises(InferenceServerException, match=r"'logit'.*'score'"):
            client.infer("ctr", inputs_of(library, ARRAYS), outputs=wanted)


def test_plain_json_is_enough(serve: Serve) -> None:
    server = serve()
    tensors = {"x": ("FP32", [1.5]), "user": ("INT64", [2**40]), "clicked": ("INT64", [])}
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1, 0] if not data else [1], "data": data}
        for name, (datatype, data) in tensors.items()
    ]
    request = urllib.request.Request(
        f"{server.url}/v2/models/ctr/infer", json.dumps({"id": "7", "inputs": inputs}).encode()
    )
    with LOCAL.open(request, timeout=10) as answer:
        assert answer.headers["content-type"] == "application/json"
        found = json.load(answer)
    assert found == {
        "model_name": "ctr",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {
                "name": "score",
                "datatype": "FP32",
                "shape": [1],
                "data": [float(np.float32(1001.5 + 2**40))],
            }
        ],
    }


def test_contents_of_grpc_may_be_typed(serve: Serve) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor
    contents = pb.InferTensorContents
    request = pb.ModelInferRequest(
        model_name="ctr",
        inputs=[
            tensor(name="x", datatype="FP64", shape=[1], contents=contents(fp64_contents=[0.5])),
            tensor(
                name="user", datatype="UINT64", shape=[1], contents=contents(uint64_contents=[3])
            ),
            tensor(
                name="clicked",
                datatype="INT32",
                shape=[1, 2],
                contents=contents(int_contents=[4, 5]),
            ),
        ],
    )
    with grpc.insecure_channel(serve().grpc_address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [1012.5]
