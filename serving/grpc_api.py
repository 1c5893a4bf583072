"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from embery import __version__
from embery.errors import EmberyError, InvalidArgument
from embery.rpc.channel import AUTHORIZATION_KEY
from embery.rpc.v1 import inference_pb2 as pb
from embery.rpc.v1.inference_pb2_grpc import GRPCInferenceServiceServicer
from embery.serving.refusals import ModelNotFound, grpc_code_of
from embery.serving.scorer import Scorer
from embery.serving.service import PLATFORM, InferenceService
from embery.serving.tensors import Array, tensor_of_bytes, tensor_of_list, tensors_of

log = logging.getLogger(__name__)

# Field of InferTensorContents that has the values of a data type.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_OPEN_METHODS = tuple(f"/inference.GRPCInferenceService/Server{kind}" for kind in ("Live", "Ready"))


class GrpcApi(GRPCInferenceServiceServicer):
    """Answers calls; one object for all of them."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def ServerLive(self, request: Any, context: Any) -> pb.ServerLiveResponse:
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:
        """Say whether requests for scores are taken."""
        return pb.ServerReadyResponse(ready=self._service.is_ready)

    async def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:
        """Say what this server is."""
        return pb.ServerMetadataResponse(name="embery", version=__version__)

    async def ModelReady(self, request: Any, context: Any) -> pb.ModelReadyResponse:
        """Say whether a model, or a version of it, is served."""
        try:
            self._service.scorer(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._service.is_ready)

    async def ModelMetadata(self, request: Any, context: Any) -> pb.ModelMetadataResponse:
        """Say what a model takes and gives."""
        try:
            scorer = self._service.scorer(request.name, request.version)
        except ModelNotFound as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=self._service.name,
            versions=[str(scorer.version)],
            platform=PLATFORM,
            inputs=[
                tensor(name=info.name, datatype=info.datatype, shape=info.shape)
                for info in tensors_of(scorer.inputs)
            ],
            outputs=[
                tensor(name=output.name, datatype="FP32", shape=[-1]) for output in scorer.outputs
            ],
        )

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:
        """Score the samples of a request."""
        start_s = time.perf_counter()
        problem: Exception
        try:
            tensors = _tensors_of(request)
            outputs = [output.name for output in request.outputs]
            scorer, scores = await self._service.infer(
                request.model_name, request.model_version, tensors, outputs
            )
        except EmberyError as error:
            problem, code, text = error, grpc_code_of(error), str(error)
        except Exception as error:
            log.exception("a request failed in a way that it must not")
            problem, code = error, grpc.StatusCode.INTERNAL
            text = f"{type(error).__name__}: {error}; see the log"
        else:
            self._service.answered("grpc", time.perf_counter() - start_s)
            return _scored(request, scorer, scores)
        self._service.answered("grpc", time.perf_counter() - start_s, problem)
        await context.abort(code, text)
        raise AssertionError  # abort raises.


class TokenGuard(grpc.aio.ServerInterceptor):
    """Refuses callers that do not know the token; health is for anyone."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the handler of a call, or one that refuses it."""
        given = dict(handler_call_details.invocation_metadata)
        shown = str(given.get(AUTHORIZATION_KEY, "")).encode()
        if handler_call_details.method in _OPEN_METHODS or hmac.compare_digest(
            shown, self._expected
        ):
            return await continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(request: bytes, context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "the token is wrong or missing: metadata authorization: Bearer TOKEN",
    )


def _tensors_of(request: Any) -> dict[str, Array]:
    """Return the inputs of a request by name."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument(
            f"raw_input_contents must have one element for each of {len(request.inputs)} inputs, "
            f"got {len(raw)}"
        )
    tensors: dict[str, Array] = {}
    for i, one in enumerate(request.inputs):
        name, datatype, shape = one.name, one.datatype, tuple(one.shape)
        if name in tensors:
            raise InvalidArgument(f"every input needs a name of its own, got {name!r} twice")
        if raw:
            tensors[name] = tensor_of_bytes(name, datatype, shape, raw[i])
        else:
            field = _CONTENTS.get(datatype, "bool_contents")
            tensors[name] = tensor_of_list(
                name, datatype, shape, list(getattr(one.contents, field))
            )
    return tensors


def _scored(request: Any, scorer: Scorer, scores: Any) -> pb.ModelInferResponse:
    output = pb.ModelInferResponse.InferOutputTensor(
        name=scorer.outputs[0].name, datatype="FP32", shape=[len(scores)]
    )
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=str(scorer.version),
        id=request.id,
        outputs=[output],
        raw_output_contents=[scores.tobytes()],
    )
