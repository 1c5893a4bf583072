"""MovieLens-100K as examples for a model of behaviour: what a user had rated before each rating.

A row of the files written here is one rating, in the order of time: the label (4 or 5 stars of 5),
the movie and its genres, the user's profile, and the movies that this user had liked and disliked
until then, the latest first. Only what was known at the time of the rating is in its row.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import embery as em

LIKED_FROM = 4
HISTORY_MAX = 50
TRAIN_SHARE, VALID_SHARE = 0.8, 0.1
SCHEMA = em.data.Schema(
    label="label",
    sparse=[
        "movie",
        em.data.SparseList("liked", max_length=HISTORY_MAX),
        em.data.SparseList("disliked", max_length=HISTORY_MAX),
        em.data.SparseList("genres"),
        "user",
        "gender",
        "occupation",
        "decade",
    ],
)


def write_histories(source: Path, folder: Path) -> None:
    """Write train.parquet, valid.parquet and test.parquet, one after the other in time.

    Args:
        source: folder with interactions.parquet, items.parquet and users.parquet.
        folder: where to write; it exists.
    """
    ratings = pq.read_table(source / "interactions.parquet").sort_by("timestamp").to_pylist()
    movies = {row["movie_id"]: row for row in pq.read_table(source / "items.parquet").to_pylist()}
    users = {row["user_id"]: row for row in pq.read_table(source / "users.parquet").to_pylist()}
    rows = _rows(ratings, movies, users)
    train = round(TRAIN_SHARE * len(rows))
    valid = train + round(VALID_SHARE * len(rows))
    parts = {"train": rows[:train], "valid": rows[train:valid], "test": rows[valid:]}
    for name, part in parts.items():
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet", row_group_size=2**14)


def _rows(
    ratings: list[dict[str, Any]], movies: dict[int, Any], users: dict[int, Any]
) -> list[dict[str, Any]]:
    liked: defaultdict[int, list[int]] = defaultdict(list)
    disliked: defaultdict[int, list[int]] = defaultdict(list)
    rows = []
    for rating in ratings:
        user, movie = rating["user_id"], rating["movie_id"]
        profile = users[user]
        likes = rating["rating"] >= LIKED_FROM
        rows.append(
            {
                "label": int(likes),
                "movie": movie,
                "liked": liked[user][::-1],
                "disliked": disliked[user][::-1],
                "genres": movies[movie]["genres"].split("|"),
                "user": user,
                "gender": profile["gender"],
                "occupation": profile["occupation"],
                "decade": profile["age"] // 10,
            }
        )
        (liked if likes else disliked)[user].append(movie)
    return rows
