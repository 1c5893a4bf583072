"""The model of `benchmarks.serving` in MLServer: the same lookup and dense part, its server.

MLServer imports it by `implementation` in model-settings.json, in an environment of its own.
"""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from embery.serving.bundle import Bundle


class BundleRuntime(MLModel):
    """Scores requests with the bundle that the settings' `uri` names."""

    async def load(self) -> bool:
        """Open the bundle."""
        assert self.settings.parameters is not None
        self._scorer = Bundle.open(str(self.settings.parameters.uri)).scorer(threads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the score of each sample."""
        features = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        scores = self._scorer.score(self._scorer.read(features))
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(self._scorer.outputs[0].name, scores)],
        )
