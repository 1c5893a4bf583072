"""A closed loop of clients against a server of the Open Inference Protocol.

Every client has one connection and sends its next request when the last one is answered. Requests
are made before the clock starts, so that the load costs little beside the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from embery.rpc.v1 import inference_pb2 as pb

Arrays = Mapping[str, NDArray[Any]]
# Asks for scores; returns them.
Ask = Callable[[], Awaitable[NDArray[np.float32]]]

WARM_S = 1.0
TIMEOUT_S = 60.0
DATATYPES = {"float32": "FP32", "int64": "INT64"}
HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Load:
    """What to send where."""

    protocol: str  # "json", "binary" or "grpc"
    host: str
    port: int
    model: str


def http_request(load: Load, arrays: Arrays) -> bytes:
    """Return a whole HTTP request."""
    inputs: list[dict[str, Any]] = []
    raw = b""
    for name, array in arrays.items():
        one: dict[str, Any] = {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES[array.dtype.name],
        }
        if load.protocol == "json":
            one["data"] = array.ravel().tolist()
        else:
            one["parameters"] = {"binary_data_size": array.nbytes}
            raw += array.tobytes()
        inputs.append(one)
    header: dict[str, Any] = {"inputs": inputs}
    if load.protocol == "binary":
        header["parameters"] = {"binary_data_output": True}
    text = json.dumps(header).encode()
    lines = [
        f"POST /v2/models/{load.model}/infer HTTP/1.1",
        f"host: {load.host}:{load.port}",
        "content-type: application/json",
        f"content-length: {len(text) + len(raw)}",
    ]
    if load.protocol == "binary":
        lines.append(f"{HEADER_LENGTH}: {len(text)}")
    return "\r\n".join([*lines, "", ""]).encode() + text + raw


def grpc_request(load: Load, arrays: Arrays) -> Any:
    """Return a call's message."""
    request = pb.ModelInferRequest(model_name=load.model)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


async def http_client(load: Load, requests: Sequence[bytes]) -> Ask:
    """Connect; return what sends the next request."""
    reader, writer = await asyncio.open_connection(load.host, load.port)
    turn = 0

    async def ask() -> NDArray[np.float32]:
        nonlocal turn
        writer.write(requests[turn % len(requests)])
        turn += 1
        status, headers = _head_of(await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(int(headers["content-length"]))
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:500]!r}")
        header_length = headers.get(HEADER_LENGTH)
        if header_length is not None:
            return np.frombuffer(body, "<f4", offset=int(header_length))
        return np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()

    return ask


def _head_of(data: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = data.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def grpc_client(load: Load, requests: Sequence[Any]) -> Ask:
    """Connect; return what makes the next call."""
    # A subchannel of its own, else all clients would share one connection.
    options = (("grpc.use_local_subchannel_pool", 1),)
    channel = grpc.aio.insecure_channel(f"{load.host}:{load.port}", options)
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    turn = 0

    async def ask() -> NDArray[np.float32]:
        nonlocal turn
        answer = await call(requests[turn % len(requests)], timeout=TIMEOUT_S)
        turn += 1
        if answer.raw_output_contents:
            return np.frombuffer(answer.raw_output_contents[0], "<f4")
        return np.array(answer.outputs[0].contents.fp32_contents, np.float32)

    return ask


async def connect(load: Load, batches: Sequence[Arrays]) -> Ask:
    """Return a client that sends these batches in turn."""
    if load.protocol == "grpc":
        return await grpc_client(load, [grpc_request(load, batch) for batch in batches])
    return await http_client(load, [http_request(load, batch) for batch in batches])


async def measure(
    load: Load, batches: Sequence[Arrays], *, connections: int, seconds: float
) -> tuple[float, NDArray[np.float64]]:
    """Return requests a second, and the seconds that each took, sorted; one at least."""
    asks = [await connect(load, batches) for _ in range(connections)]
    taken_s: list[float] = []
    begin_s = time.perf_counter() + WARM_S
    end_s = begin_s + seconds

    async def run(ask: Ask) -> None:
        start_s = time.perf_counter()
        while start_s < end_s or not taken_s:
            await asyncio.wait_for(ask(), TIMEOUT_S)
            now_s = time.perf_counter()
            if start_s >= begin_s:
                taken_s.append(now_s - start_s)
            start_s = now_s

    await asyncio.gather(*map(run, asks))
    return len(taken_s) / (time.perf_counter() - begin_s), np.sort(taken_s)
