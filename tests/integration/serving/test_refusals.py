"""What is wrong with a request comes back as a status with the reason, and nothing else breaks."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from embery.errors import InvalidArgument, Unauthenticated, Unavailable
from embery.rpc.credentials import Credentials
from embery.rpc.v1 import inference_pb2 as pb
from embery.rpc.v1.inference_pb2_grpc import GRPCInferenceServiceStub
from embery.serving.batching import BatchingOptions

Serve = Callable[..., Any]
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
DEADLINE_S = 30
GOOD: dict[str, tuple[str, list[int], list[Any]]] = {
    "x": ("FP32", [1], [1.0]),
    "user": ("INT64", [1], [2]),
    "clicked": ("INT64", [1, 2], [3, 4]),
}
SCORE = 1010.0


def body_of(tensors: dict[str, Any]) -> dict[str, Any]:
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "data": data}
        for name, (datatype, shape, data) in tensors.items()
    ]
    return {"inputs": inputs}


def post(
    server: Any, body: Any, path: str = "/v2/models/ctr/infer", **headers: str
) -> tuple[int, Any]:
    """Return status and JSON of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, data, names)
    try:
        with LOCAL.open(request, timeout=DEADLINE_S) as answer:
            return int(answer.status), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def get(server: Any, path: str) -> int:
    try:
        with LOCAL.open(server.url + path, timeout=DEADLINE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def call(server: Any, tensors: dict[str, Any], name: str = "ctr", **options: Any) -> float:
    """Return the score of one sample by gRPC."""
    fields = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}
    request = pb.ModelInferRequest(model_name=name)
    for tensor, (datatype, shape, data) in tensors.items():
        one = request.inputs.add(name=tensor, datatype=datatype, shape=shape)
        getattr(one.contents, fields[datatype]).extend(data)
    with grpc.insecure_channel(server.grpc_address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(
            request, timeout=DEADLINE_S, **options
        )
    (score,) = memoryview(answer.raw_output_contents[0]).cast("f")
    return float(score)


def assert_serves(server: Any) -> None:
    """A good request gets its score, by both protocols."""
    status, answer = post(server, body_of(GOOD))
    assert (status, answer["outputs"][0]["data"]) == (200, [SCORE])
    assert call(server, GOOD) == SCORE


BAD_TENSORS = {
    "unknown feature": (GOOD | {"colour": ("INT64", [1], [1])}, "'colour' is not known"),
    "missing feature": ({k: GOOD[k] for k in ("x", "user")}, "'clicked' is missing"),
    "wrong type": (GOOD | {"x": ("BYTES", [1], ["a"])}, "'x'"),
    "list too long": (GOOD | {"clicked": ("INT64", [1, 4], [1, 2, 3, 4])}, "at most 3 values"),
    "other batch": (GOOD | {"user": ("INT64", [2], [1, 2])}, "'user': expected 1 samples"),
    "wrong shape": (GOOD | {"user": ("INT64", [3], [1, 2])}, r"do not make the shape \[3\]"),
    "no samples": ({k: (v[0], [0], []) for k, v in GOOD.items()}, "1 to 8 samples, got 0"),
    "batch too large": (
        {k: (v[0], [9], v[2][:1] * 9) for k, v in GOOD.items()},
        "1 to 8 samples, got 9",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_bad_request_is_refused_with_its_reason(serve: Serve, case: str) -> None:
    tensors, reason = BAD_TENSORS[case]
    server = serve(batching=BatchingOptions(batch_max=8))
    status, answer = post(server, body_of(tensors))
    assert status == 400
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(answer["error"])
    with pytest.raises(grpc.RpcError, match=reason) as caught:
        call(
            server,
            {
                k: (d, s, [str(v).encode() for v in values] if d == "BYTES" else values)
                for k, (d, s, values) in tensors.items()
            },
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_serves(server)


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"{", {}, "no JSON"),
        (b"[]", {}, '"inputs"'),
        (b'{"inputs": [1]}', {}, '"inputs"'),
        (b'{"inputs": [{}]}', {}, "needs a name"),
        (b'{"inputs": [{"name": "x"}]}', {}, '"datatype"'),
        (b'{"inputs": [{"name": "x", "datatype": "FP32"}]}', {}, '"shape"'),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}', {}, "binary_data_size"),
        (b'{"inputs": [], "id": 7}', {}, '"id"'),
        (b'{"inputs": [], "outputs": [7]}', {}, '"outputs"'),
        (b'{"inputs": []}1234', {"Inference_Header_Content_Length": "14"}, "4 bytes follow"),
        (b'{"inputs": []}', {"Inference_Header_Content_Length": "15"}, "Header-Content-Length"),
        (b'{"inputs": []}', {"Inference_Header_Content_Length": "-1"}, "Header-Content-Length"),
        (b'{"inputs": []}', {"Content_Encoding": "gzip"}, "compressed"),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    serve: Serve, body: bytes, headers: dict[str, str], reason: str
) -> None:
    server = serve()
    status, answer = post(server, body, **headers)
    assert status == 400
    assert reason in answer["error"]
    assert_serves(server)


def test_another_model_version_or_path_is_not_found(serve: Serve) -> None:
    server = serve()
    for path in ("/v2/models/other/infer", "/v2/models/ctr/versions/7/infer", "/v2/infer"):
        assert post(server, body_of(GOOD), path)[0] == 404
    for path in ("/", "/v1/models/ctr", "/v2/models/ctr/versions/7", "/v2/models/x/ready"):
        assert get(server, path) == 404
    assert post(server, b"", "/v2/models/ctr")[0] == 405
    with pytest.raises(grpc.RpcError, match="no model 'other'") as caught:
        call(server, GOOD, "other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_request_of_too_many_bytes_is_refused(serve: Serve) -> None:
    server = serve(request_bytes_max=2000)
    large = {**GOOD, "clicked": ("INT64", [1, 1000], [7] * 1000)}
    status, answer = post(server, body_of(large))
    assert status == 413
    assert "2000 are taken" in answer["error"]
    with pytest.raises(grpc.RpcError, match="larger than max") as caught:
        call(server, {**GOOD, "clicked": ("INT64", [1, 3000], [7] * 3000)})
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_serves(server)


def test_a_full_queue_is_refused_and_the_rest_gets_its_scores(serve: Serve) -> None:
    options = BatchingOptions(batch_max=4, queue_max=4, delay_ms=200.0)
    server = serve(batching=options)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: post(server, body_of(GOOD)), range(3)))
        three = {k: (v[0], [3, *v[1][1:]], v[2] * 3) for k, v in GOOD.items()}
        waiting = threads.submit(post, server, body_of(three))
        # While these three samples wait for a fourth, two more do not fit.
        while not server.service.batcher.samples and not waiting.done():
            threading.Event().wait(0.001)
        two = {k: (v[0], [2, *v[1][1:]], v[2] * 2) for k, v in GOOD.items()}
        status, answer = post(server, body_of(two))
        assert waiting.result()[0] == 200
    assert [one[0] for one in found] == [200] * 3
    assert status == 429
    assert "of 4 at most" in answer["error"]


def test_a_token_is_asked_for_but_not_for_health(serve: Serve, tmp_path: Any) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-enough-bytes\n")
    server = serve(credentials=Credentials(token_file=str(token)))
    for shown in ("", "Bearer wrong-token-of-enough-bytes"):
        status, answer = post(server, body_of(GOOD), Authorization=shown)
        assert status == 401
        assert "token" in answer["error"]
        with pytest.raises(grpc.RpcError) as caught:
            call(server, GOOD, metadata=(("authorization", shown),))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert get(server, "/v2") == 401
    assert get(server, "/v2/health/ready") == get(server, "/v2/health/live") == 200
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=DEADLINE_S).ready
    right = "Bearer a-token-of-enough-bytes"
    assert post(server, body_of(GOOD), Authorization=right)[0] == 200
    assert call(server, GOOD, metadata=(("authorization", right),)) == SCORE


def test_a_certificate_is_shown_and_asked_for(serve: Serve, certificates: dict[str, Path]) -> None:
    paths = {name: str(certificates[name]) for name in ("ca", "cert", "key")}
    ours = Credentials(tls_cert=paths["cert"], tls_key=paths["key"], tls_ca=paths["ca"])
    server = serve(credentials=ours)
    assert server.url.startswith("https://")
    context = ssl.create_default_context(cafile=paths["ca"])
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
        urllib.request.urlopen(server.url + "/v2", timeout=DEADLINE_S, context=context)
    context.load_cert_chain(paths["cert"], paths["key"])
    with urllib.request.urlopen(server.url + "/v2", timeout=DEADLINE_S, context=context) as answer:
        assert answer.status == 200
    authority, key, chain = (certificates[name].read_bytes() for name in ("ca", "key", "cert"))
    for known, shown in ((True, (key, chain)), (False, (None, None))):
        secrets = grpc.ssl_channel_credentials(authority, *shown)
        with grpc.secure_channel(server.grpc_address, secrets) as channel:
            stub = GRPCInferenceServiceStub(channel)
            if known:
                assert stub.ServerLive(pb.ServerLiveRequest(), timeout=DEADLINE_S).live
            else:
                with pytest.raises(grpc.RpcError):
                    stub.ServerLive(pb.ServerLiveRequest(), timeout=DEADLINE_S)


def test_without_credentials_only_loopback_is_served(serve: Serve) -> None:
    with pytest.raises(Unauthenticated, match="--insecure"):
        serve(host="0.0.0.0")
    assert_serves(serve(host="0.0.0.0", insecure=True))


def test_a_port_in_use_is_one_clear_error(serve: Serve) -> None:
    server = serve()
    for option, address in (("port", server.url), ("grpc_port", server.grpc_address)):
        with pytest.raises(Unavailable, match="cannot listen"):
            serve(**{option: int(address.rpartition(":")[2])})
    assert_serves(server)


def test_options_out_of_range_are_refused(serve: Serve) -> None:
    for options in ({"port": 70000}, {"request_bytes_max": 1}, {"watch_s": -1.0}):
        with pytest.raises(InvalidArgument, match="--"):
            serve(**options)
