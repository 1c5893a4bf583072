"""A model of behaviour sequences: attention from the candidate to what the user liked and disliked.

After the Deep Interest Network (Zhou et al., KDD 2018). The candidate and both histories read the
same table, so that a rating teaches its movie in every role. Shape letters: B rows, L the longest
history of the batch, D columns of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import embery as em

PROFILE = ("genres", "user", "gender", "occupation", "decade")


class InterestModel(nn.Module):
    """Candidate, interest in it by likes and by dislikes, profile; then an MLP to one logit."""

    def __init__(self, store: em.Store, *, dim: int = 16, lr: float = 0.02, seed: int = 0) -> None:
        super().__init__()

        def table(name: str, number: int) -> em.Table:
            return em.Table(
                name,
                dim=dim,
                optimizer=em.optim.Adagrad(lr=lr),
                initializer=em.init.Normal(0.05, seed=seed + number),
            )

        self.movies = em.EmbeddingCollection(
            tables=[table("movie", 0)],
            features=[em.Feature(name, table="movie") for name in ("movie", "liked", "disliked")],
            store=store,
        )
        self.profile = em.EmbeddingBagCollection(
            tables=[table(name, number) for number, name in enumerate(PROFILE, 1)],
            features=[em.Feature(name, table=name, pooling="mean") for name in PROFILE],
            store=store,
        )
        self.liked, self.disliked = Attention(dim), Attention(dim)
        self.head = nn.Sequential(
            nn.Linear((3 + len(PROFILE)) * dim + 4, 64),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(64, 1),
        )

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return logits, float32 (B,)."""
        movies = self.movies(batch.sparse)
        candidate_BD = movies["movie"].values()
        liked_BD, likes_B = self.liked(candidate_BD, movies["liked"])
        disliked_BD, dislikes_B = self.disliked(candidate_BD, movies["disliked"])
        agreement_B2 = torch.stack(
            [(candidate_BD * liked_BD).sum(1), (candidate_BD * disliked_BD).sum(1)], 1
        )
        counts_B2 = torch.stack([likes_B, dislikes_B], 1).log1p()
        profile = self.profile(batch.sparse).values()
        parts = [candidate_BD, liked_BD, disliked_BD, agreement_B2, counts_B2, profile]
        return self.head(torch.cat(parts, 1))[:, 0]


class Attention(nn.Module):
    """Weigh each movie of a history by what it has to do with the candidate, and sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(4 * dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, candidate_BD: Tensor, history: em.JaggedTensor) -> tuple[Tensor, Tensor]:
        """Return the interest, float32 (B, D), and the length of each history, float32 (B,).

        An empty history has the interest 0.
        """
        history_BLD = history.to_padded_dense()
        lengths_B = history.lengths()
        candidate_BLD = candidate_BD[:, None].expand_as(history_BLD)
        pairs = [
            history_BLD, candidate_BLD, history_BLD - candidate_BLD, history_BLD * candidate_BLD,
        ]  # fmt: skip
        scores_BL = self.score(torch.cat(pairs, 2))[:, :, 0]
        absent_BL = torch.arange(history_BLD.shape[1]) >= lengths_B[:, None]
        # A finite floor, so that a row without history gets equal weights for its zeros, not NaN.
        weights_BL = scores_BL.masked_fill(absent_BL, -1e9).softmax(1)
        return (weights_BL[:, :, None] * history_BLD).sum(1), lengths_B.float()
