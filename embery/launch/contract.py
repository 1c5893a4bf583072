"""What a worker tells the launcher by its log; the other direction is `embery.place`.

`MASTER_ADDR` and `MASTER_PORT` are torch's own: where rank 0 listens for the other workers.
"""

# A worker that lost another ends with this on its log: it is not the one that failed first.
PEER_LOST = "another worker of this run has gone"
