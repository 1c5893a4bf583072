"""The Open Inference Protocol over HTTP, as an ASGI application; also with binary tensors.

Paths and JSON objects are those of
https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; binary
tensors are Triton's extension of it: the JSON object, `Inference-Header-Content-Length` bytes, then
the bytes of every tensor that has `binary_data_size`, in their order.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embery import __version__
from embery.errors import EmberyError, InvalidArgument, Unauthenticated
from embery.serving.refusals import ModelNotFound, RequestTooLarge, http_status_of
from embery.serving.scorer import Scorer
from embery.serving.service import PLATFORM, InferenceService
from embery.serving.tensors import (
    Array,
    TensorInfo,
    tensor_of_bytes,
    tensor_of_list,
    tensors_of,
)

log = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data",)
HEADER_LENGTH = b"inference-header-content-length"
_JSON = b"application/json"
_BINARY = b"application/octet-stream"
_OPEN_PATHS = (["v2", "health", "live"], ["v2", "health", "ready"])

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", _JSON),)


@dataclass(frozen=True, slots=True)
class _Inference:
    """A request for scores; `binary` says whether these return as bytes."""

    id: str | None
    tensors: dict[str, Array]
    outputs: list[str]
    binary: bool


class HttpApi:
    """Answers requests; holds no connection itself.

    Args:
        token: what callers must show as `Authorization: Bearer TOKEN`, except for health; None
            serves anyone.
        request_bytes_max: bytes of a request's body.
    """

    def __init__(
        self, service: InferenceService, *, token: str | None, request_bytes_max: int
    ) -> None:
        self._service = service
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._bytes_max = request_bytes_max

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it."""
        if scope["type"] != "http":
            return
        try:
            reply = await self._answer(scope, receive)
        except EmberyError as error:
            reply = _Reply(http_status_of(error), orjson.dumps({"error": str(error)}))
        except Exception as error:
            log.exception("a request failed in a way that it must not")
            text = f"{type(error).__name__}: {error}; see the log"
            reply = _Reply(500, orjson.dumps({"error": text}))
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> _Reply:
        parts = scope["path"].strip("/").split("/")
        headers = dict(scope["headers"])
        if self._expected is not None and parts not in _OPEN_PATHS:
            shown = headers.get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._expected):
                raise Unauthenticated("the token is wrong or missing: Authorization: Bearer TOKEN")
        method = scope["method"]
        if method == "POST" and parts[-1] == "infer":
            return await self._timed_infer(parts[:-1], headers, receive)
        if method != "GET":
            return _Reply(405, orjson.dumps({"error": f"{method} of {scope['path']} is unknown"}))
        return self._describe(parts)

    def _describe(self, parts: list[str]) -> _Reply:
        """Answer a GET."""
        match parts:
            case ["v2"]:
                about = {"name": "embery", "version": __version__, "extensions": EXTENSIONS}
                return _Reply(200, orjson.dumps(about))
            case ["v2", "health", "live"]:
                return _Reply(200, b'{"live":true}')
            case ["v2", "health", "ready"]:
                ready = self._service.is_ready
                return _Reply(200 if ready else 503, orjson.dumps({"ready": ready}))
            case [*model, "ready"]:
                name = self._scorer(model) and self._service.name
                ready = self._service.is_ready
                return _Reply(200 if ready else 503, orjson.dumps({"name": name, "ready": ready}))
            case _:
                return _Reply(200, orjson.dumps(self._metadata(self._scorer(parts))))

    def _scorer(self, parts: list[str]) -> Scorer:
        return self._service.scorer(*_model_of(parts))

    def _metadata(self, scorer: Scorer) -> dict[str, Any]:
        outputs = [TensorInfo(output.name, "FP32", (-1,)) for output in scorer.outputs]
        return {
            "name": self._service.name,
            "versions": [str(scorer.version)],
            "platform": PLATFORM,
            "inputs": [asdict(info) for info in tensors_of(scorer.inputs)],
            "outputs": [asdict(info) for info in outputs],
        }

    async def _timed_infer(
        self, parts: list[str], headers: Mapping[bytes, bytes], receive: Receive
    ) -> _Reply:
        start_s = time.perf_counter()
        error: Exception | None = None
        try:
            return await self._infer(parts, headers, receive)
        except Exception as problem:
            error = problem
            raise
        finally:
            self._service.answered("http", time.perf_counter() - start_s, error)

    async def _infer(
        self, parts: list[str], headers: Mapping[bytes, bytes], receive: Receive
    ) -> _Reply:
        name, version = _model_of(parts)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise InvalidArgument("compressed requests are not taken: send the body as it is")
        body = await self._body(headers, receive)
        header_length = headers.get(HEADER_LENGTH)
        asked = _parse(body, _header_length(header_length, len(body)))
        scorer, scores = await self._service.infer(name, version, asked.tensors, asked.outputs)
        return _scored(self._service.name, asked, scorer, scores)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._bytes_max:
            raise self._too_large(int(announced))
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._bytes_max:
                raise self._too_large(size)
            pieces.append(piece)
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _too_large(self, size: int) -> RequestTooLarge:
        return RequestTooLarge(
            f"a request of {size} bytes or more; {self._bytes_max} are taken: send fewer samples"
        )


def _model_of(parts: list[str]) -> tuple[str, str]:
    """Return model and version ("": the current one) of a path."""
    match parts:
        case ["v2", "models", name]:
            return name, ""
        case ["v2", "models", name, "versions", version]:
            return name, version
    raise ModelNotFound(f"nothing at /{'/'.join(parts)}; models are at /v2/models/NAME")


def _header_length(given: bytes | None, body_length: int) -> int:
    if given is None:
        return body_length
    if not given.isdigit() or int(given) > body_length:
        raise InvalidArgument(
            f"Inference-Header-Content-Length: expected at most {body_length}, the bytes of the "
            f"body, got {given.decode('latin-1')!r}"
        )
    return int(given)


def _parse(body: bytes, header_length: int) -> _Inference:
    """Return the request in a body whose first `header_length` bytes are JSON."""
    try:
        header = orjson.loads(memoryview(body)[:header_length])
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the request is no JSON: {error}") from None
    inputs = header.get("inputs") if isinstance(header, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        raise InvalidArgument('the request must be an object with a list "inputs" of objects')
    tensors: dict[str, Array] = {}
    raw = memoryview(body)[header_length:]
    for one in inputs:
        name = one.get("name")
        if not isinstance(name, str) or name in tensors:
            raise InvalidArgument(f"every input needs a name of its own, got {name!r}")
        tensors[name], raw = _tensor_of(name, one, raw)
    if len(raw):
        raise InvalidArgument(f"{len(raw)} bytes follow those of the last binary input")
    request_id = header.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidArgument(f'"id" must be a string, got {request_id!r}')
    return _Inference(request_id, tensors, *_outputs_of(header))


def _tensor_of(name: str, one: Mapping[str, Any], raw: memoryview) -> tuple[Array, memoryview]:
    """Return the tensor of an input, and the binary data that are left for those after it."""
    datatype, shape = one.get("datatype"), one.get("shape")
    if not isinstance(datatype, str):
        raise InvalidArgument(f'input {name!r}: "datatype" must be a string, got {datatype!r}')
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise InvalidArgument(f'input {name!r}: "shape" must be a list of integers, got {shape!r}')
    if "data" in one:
        return tensor_of_list(name, datatype, shape, one["data"]), raw
    size = _parameters(one).get("binary_data_size")
    if type(size) is not int or not 0 <= size <= len(raw):
        raise InvalidArgument(
            f'input {name!r} has no "data", so "binary_data_size" must be one of the {len(raw)} '
            f"bytes that are left, got {size!r}"
        )
    return tensor_of_bytes(name, datatype, shape, raw[:size]), raw[size:]


def _outputs_of(header: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return the outputs that are wanted, and whether as bytes: as they say, else the request."""
    outputs = header.get("outputs") or []
    if not isinstance(outputs, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in outputs
    ):
        raise InvalidArgument('"outputs" must be a list of objects that have a "name"')
    chosen = [_parameters(one).get("binary_data") for one in outputs]
    by_default = _parameters(header).get("binary_data_output") is True
    binary = by_default if not chosen or chosen[0] is None else chosen[0] is True
    return [one["name"] for one in outputs], binary


def _parameters(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found = one.get("parameters")
    return found if isinstance(found, dict) else {}


def _scored(model: str, asked: _Inference, scorer: Scorer, scores: NDArray[np.float32]) -> _Reply:
    output: dict[str, Any] = {
        "name": scorer.outputs[0].name,
        "datatype": "FP32",
        "shape": [len(scores)],
    }
    header: dict[str, Any] = {
        "model_name": model,
        "model_version": str(scorer.version),
        "outputs": [output],
    }
    if asked.id is not None:
        header["id"] = asked.id
    if not asked.binary:
        output["data"] = scores.tolist()
        return _Reply(200, orjson.dumps(header))
    output["parameters"] = {"binary_data_size": scores.nbytes}
    text = orjson.dumps(header)
    headers = ((b"content-type", _BINARY), (HEADER_LENGTH, b"%d" % len(text)))
    return _Reply(200, text + scores.tobytes(), headers)
