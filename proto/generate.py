"""Generates the Python stubs of proto/embery/v1 into embery/rpc/v1; `make proto` calls it."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parent.resolve()
TARGET = PROTO.parent / "embery" / "rpc" / "v1"
PACKAGE = '"""Generated from proto/embery/v1 by `make proto`; do not edit."""\n'


def generate(target: Path) -> None:
    """Replace the stubs in `target` by those of the present protos."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        sources = sorted(str(path) for path in PROTO.glob("embery/v1/*.proto"))
        if protoc.main(["protoc", f"--proto_path={PROTO}", *arguments, *sources]):
            raise SystemExit("protoc failed; its message is above")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in Path(folder, "embery", "v1").iterdir():
            # The package of the protos is embery.v1; the stubs live where all of rpc does.
            text = re.sub(
                r"\bfrom embery\.v1 import", "from embery.rpc.v1 import", path.read_text()
            )
            if path.name == "inference_pb2.py":
                # Every client of that protocol registers the same names: a pool of its own lets
                # one program hold ours and theirs.
                text = text.replace("_descriptor_pool.Default", "_descriptor_pool.DescriptorPool")
            (target / path.name).write_text(text)
    (target / "__init__.py").write_text(PACKAGE)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
