"""Five click models on one set of embedding tables: LR, DNN, DeepFM, DCN-V2 and DLRM.

Every model turns a batch into one logit a row; `MODELS` names them. Shape letters: B rows, F sparse
features, J dense features, D columns of an embedding, P pairs of vectors.
"""

from __future__ import annotations

import torch
from settings import ModelSettings, Settings
from torch import Tensor, nn

import embery as em


class Inputs(nn.Module):
    """What every model reads: `columns` of each sparse feature, and the dense features."""

    def __init__(
        self,
        schema: em.data.Schema,
        settings: Settings,
        store: em.Store,
        *,
        columns: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.sparse, self.dense, self.columns = len(schema.keys), len(schema.dense), columns
        self.embedding = em.EmbeddingBagCollection(
            tables=[
                settings.table.table(key, dim=columns, seed=seed + number)
                for number, key in enumerate(schema.keys)
            ],
            features=[em.Feature(key, table=key) for key in schema.keys],
            store=store,
        )
        # Running statistics bring counts and prices to one scale without a pass over the data.
        self.scale = nn.BatchNorm1d(self.dense, affine=False) if self.dense else None

    def forward(self, batch: em.data.Batch) -> tuple[Tensor, Tensor]:
        """Return rows_BFD and dense_BJ, float32; J may be 0."""
        rows_BFD = self.embedding(batch.sparse).values().unflatten(1, (self.sparse, self.columns))
        if self.scale is None:
            return rows_BFD, rows_BFD.new_empty(rows_BFD.shape[0], 0)
        return rows_BFD, self.scale(batch.dense)


class LR(nn.Module):
    """Logistic regression: a weight for every key and every dense feature."""

    def __init__(
        self, schema: em.data.Schema, settings: Settings, store: em.Store, *, seed: int
    ) -> None:
        super().__init__()
        self.inputs = Inputs(schema, settings, store, columns=1, seed=seed)
        self.linear = nn.Linear(self.inputs.dense, 1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return logits, float32 (B,)."""
        weights_BF1, dense_BJ = self.inputs(batch)
        return weights_BF1.sum((1, 2)) + self.linear(dense_BJ)[:, 0]


class DNN(nn.Module):
    """A multi-layer perceptron on the embeddings side by side."""

    def __init__(
        self, schema: em.data.Schema, settings: Settings, store: em.Store, *, seed: int
    ) -> None:
        super().__init__()
        dim = settings.model.dim
        self.inputs = Inputs(schema, settings, store, columns=dim, seed=seed)
        self.mlp = mlp(self.inputs.sparse * dim + self.inputs.dense, settings.model, out=1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return logits, float32 (B,)."""
        rows_BFD, dense_BJ = self.inputs(batch)
        return self.mlp(torch.cat([rows_BFD.flatten(1), dense_BJ], 1))[:, 0]


class DeepFM(nn.Module):
    """A factorization machine and an MLP on the same embeddings (Guo et al., IJCAI 2017).

    The first column of a row is the key's own weight, the others are its factors: one look-up
    serves both orders.
    """

    def __init__(
        self, schema: em.data.Schema, settings: Settings, store: em.Store, *, seed: int
    ) -> None:
        super().__init__()
        dim = settings.model.dim
        self.inputs = Inputs(schema, settings, store, columns=1 + dim, seed=seed)
        self.linear = nn.Linear(self.inputs.dense, 1)
        self.mlp = mlp(self.inputs.sparse * dim + self.inputs.dense, settings.model, out=1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return logits, float32 (B,)."""
        rows_BFD, dense_BJ = self.inputs(batch)
        weights_BF, factors_BFD = rows_BFD[:, :, 0], rows_BFD[:, :, 1:]
        first_B = weights_BF.sum(1) + self.linear(dense_BJ)[:, 0]
        # The sum over pairs of <v_i, v_j> is (|sum v|^2 - sum |v|^2) / 2.
        second_B = (factors_BFD.sum(1).square() - factors_BFD.square().sum(1)).sum(1) / 2
        deep_B = self.mlp(torch.cat([factors_BFD.flatten(1), dense_BJ], 1))[:, 0]
        return first_B + second_B + deep_B


class DCNv2(nn.Module):
    """Cross layers x <- x0 * (W x + b) + x beside an MLP (Wang et al., WWW 2021)."""

    def __init__(
        self, schema: em.data.Schema, settings: Settings, store: em.Store, *, seed: int
    ) -> None:
        super().__init__()
        dim = settings.model.dim
        self.inputs = Inputs(schema, settings, store, columns=dim, seed=seed)
        width = self.inputs.sparse * dim + self.inputs.dense
        self.cross = nn.ModuleList(
            nn.Linear(width, width) for _ in range(settings.model.cross_layers)
        )
        self.mlp = mlp(width, settings.model)
        self.head = nn.Linear(width + settings.model.hidden[-1], 1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return logits, float32 (B,)."""
        rows_BFD, dense_BJ = self.inputs(batch)
        x0 = x = torch.cat([rows_BFD.flatten(1), dense_BJ], 1)
        for layer in self.cross:
            x = x0 * layer(x) + x
        return self.head(torch.cat([x, self.mlp(x0)], 1))[:, 0]


class DLRM(nn.Module):
    """Dot products of all pairs of vectors, then an MLP (Naumov et al., arXiv 1906.00091).

    The dense features become one more vector through an MLP of their own.
    """

    pairs: Tensor

    def __init__(
        self, schema: em.data.Schema, settings: Settings, store: em.Store, *, seed: int
    ) -> None:
        super().__init__()
        dim = settings.model.dim
        self.inputs = Inputs(schema, settings, store, columns=dim, seed=seed)
        dense = self.inputs.dense
        self.bottom = mlp(dense, settings.model, out=dim) if dense else None
        vectors = self.inputs.sparse + (1 if dense else 0)
        pairs = torch.triu_indices(vectors, vectors, offset=1)
        self.register_buffer("pairs", pairs, persistent=False)
        self.top = mlp(pairs.shape[1] + vectors * dim, settings.model, out=1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return logits, float32 (B,)."""
        vectors_BFD, dense_BJ = self.inputs(batch)
        if self.bottom is not None:
            vectors_BFD = torch.cat([vectors_BFD, self.bottom(dense_BJ)[:, None]], 1)
        products_BFF = vectors_BFD @ vectors_BFD.transpose(1, 2)
        products_BP = products_BFF[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([products_BP, vectors_BFD.flatten(1)], 1))[:, 0]


MODELS: dict[str, type[LR | DNN | DeepFM | DCNv2 | DLRM]] = {
    "lr": LR, "dnn": DNN, "deepfm": DeepFM, "dcnv2": DCNv2, "dlrm": DLRM,
}  # fmt: skip


def mlp(width: int, model: ModelSettings, *, out: int | None = None) -> nn.Sequential:
    """Return the hidden layers of `model` on `width` inputs, then a linear one to `out` if any."""
    layers: list[nn.Module] = []
    for hidden in model.hidden:
        layers.append(nn.Linear(width, hidden))
        if model.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers += [nn.ReLU(), nn.Dropout(model.dropout)]
        width = hidden
    if out is not None:
        layers.append(nn.Linear(width, out))
    return nn.Sequential(*layers)
