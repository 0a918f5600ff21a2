"""A table of the toy space in which everything is known: 16 architectures, two seeds, two rungs."""

from nas.architecture import canonical_id
from nas.count import Counts
from nas.measurement import Measurement
from nas.study.truth.oracle import Entry, Oracle
from search_spaces.every_point import every_point
from tests.study.toys import space

SHARES = (0.25, 1.0)
SEEDS = (0, 1)
SPREAD = 0.01  # of text_loss, between the two seeds


def toy_oracle() -> Oracle:
    """Text loss falls and latency grows with the number of attention layers; recall is their share."""
    entries = {}
    for params, architecture in every_point(space):
        layers = architecture.name.count("a")
        identity = canonical_id(architecture)
        entries[identity] = Entry(
            id=identity,
            name=architecture.name,
            params=params,
            counts=Counts(
                parameters=1000,
                active_parameters=1000,
                weight_bytes=4000,
                sequence_bytes=100 * layers + 1,
                flops_decode=10,
            ),
            measurements={"decode_latency_ms": Measurement.exact(1.0 + layers, "ms")},
            costs={"own": {"decode_latency_ms": 1.0 + layers}},
            scores={
                seed: [
                    {
                        "text_loss": scored(4.0 - share - 0.1 * layers + SPREAD * (seed - 0.5), "bits/byte"),
                        "recall": scored(share * layers / 4, "share"),
                    }
                    for share in SHARES
                ]
                for seed in SEEDS
            },
            seconds=2.0,
        )
    return Oracle(shares=SHARES, provenance={"settings": {}, "training": [], "costs": None}, entries=entries)


def scored(value: float, unit: str) -> Measurement:
    return Measurement(value=value, unit=unit, low=value - 0.1, high=value + 0.1, n=10, source="scored")
