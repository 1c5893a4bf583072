"""The baseline: how well a movie was liked in training, whoever asks."""

from __future__ import annotations

from collections import Counter

import numpy as np

import embery as em
from embery.data.synthetic import expected_auc

# A movie with few ratings is drawn towards the mean, as if it had this many average ones more.
PRIOR_RATINGS = 5


def popularity_auc(train: em.data.Dataset, test: em.data.Dataset) -> float:
    """Return the AUC on `test` of each movie's share of likes in `train`."""
    ratings: Counter[int] = Counter()
    likes: Counter[int] = Counter()
    for movie, label in movies_and_labels(train):
        ratings[movie] += 1
        likes[movie] += int(label)
    mean = sum(likes.values()) / sum(ratings.values())
    movies, labels = zip(*movies_and_labels(test), strict=True)
    scores = [(likes[m] + PRIOR_RATINGS * mean) / (ratings[m] + PRIOR_RATINGS) for m in movies]
    # Labels are probabilities that happen to be certain.
    return expected_auc(np.array(scores), np.array(labels))


def movies_and_labels(data: em.data.Dataset) -> list[tuple[int, float]]:
    """Return (movie, label) of every row."""
    pairs: list[tuple[int, float]] = []
    for batch in data:
        assert batch.sparse is not None
        pairs += zip(batch.sparse["movie"].values().tolist(), batch.label.tolist(), strict=True)
    return pairs
