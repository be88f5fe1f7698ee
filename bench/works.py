"""What is measured side by side, and the ratios that are aimed at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Steps of a cohort: a shape, or real sequences of a file with that shape's limits."""

    name: str
    shape: str
    peers: int
    steps: int
    warmup: int
    data: str | None = None  # file name in the directory of data sets
    faster: float | None = None  # target: so many times as fast as the best of the other programs
    quick: bool = False  # also measured with --quick

    @property
    def title(self) -> str:
        kind = "real sequences" if self.data else "shape"
        return f"{self.shape} {kind}, T={self.peers}"


WORKS = [
    Work("ml-1m-T2", "ml-1m", 2, 6, 2, faster=3.0, quick=True),
    Work("ml-1m-T4", "ml-1m", 4, 4, 1, faster=4.0),
    Work("ml-1m-T8", "ml-1m", 8, 2, 1, faster=5.0),
    Work("toys-data-T2", "toys", 2, 20, 3, data="toys.txt", faster=15.0, quick=True),
    Work("chi-18-data-T2", "chi-18", 2, 6, 2, data="chi-18.txt", faster=4.0),
    Work("nyc-16-data-T2", "nyc-16", 2, 6, 2, data="nyc-16.txt", faster=4.0),
    Work("ml-1m-data-T2", "ml-1m", 2, 6, 2, data="ml-1m.txt"),
    Work("lastfm-data-T2", "lastfm", 2, 6, 2, data="lastfm.seq.txt"),
]

# The fused loss alone, and how many times its three matrix products it may take.
LOSS_FLAGS, LOSS_RATIO = ["--rows", 2560, "--items", 3416, "--peers", 4], 1.5

# The work whose memory is compared, and how small a share of the other's a worker's should be.
MEMORY_WORK, MEMORY_SHARE = "ml-1m-T4", 1 / 4

# Bytes that a worker sends: at these T, one peer a worker; against the all-gather of distributions at the same T, and
# this close to one another. A worker sends the share (T-1)/T of hidden rows and gradients, which is 1.25 times as much at
# T=16 as at T=4; an all-gather sends 5 times as much. Bytes depend on
# rows, catalogue and parameters alone, so the sequences are fewer and masked more densely: as many rows as the ML-1M
# shape has, in less time and memory.
BYTES_PEERS, BYTES_SHARE, BYTES_FLAT = (4, 8, 16), 1 / 40, 1.3
BYTES_FLAGS = ["--shape", "ml-1m", "--batch", "64", "--masks", "160", "--steps", "1", "--warmup", "0"]

# The other program knows fewer shapes. With a file only the lengths of a shape count, and these have the same ones.
THEIR_SHAPES = {"ml-1m": "ml-1m", "toys": "toys", "chi-18": "chi18", "nyc-16": "chi18", "lastfm": "ml-1m"}
