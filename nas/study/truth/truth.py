"""How good what a search has found is, judged by what is true of every architecture of its space.

Truth is the table's: costs, and scores averaged over all seeds. A search sees one seed, so it may take luck for merit;
here it gets no credit for that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.measurement import Measurement
from nas.objectives import Objective, Requirement
from nas.study.front import hypervolume, non_dominated
from nas.study.truth.oracle import Oracle, OracleError

MARGIN = 0.1  # of each objective's range, from the worst architecture to the bounding point


@dataclass(frozen=True, kw_only=True)
class Truth:
    """ids: the architectures. values [N, M]: losses, each objective scaled so that able architectures span 0 to 1.
    able [N]: which meet the requirements. noise [M]: standard deviation over seeds, in the same unit. front: the ids of
    the true front among the able."""

    ids: tuple[str, ...]
    values: np.ndarray
    able: np.ndarray
    noise: np.ndarray
    front: tuple[str, ...]

    @classmethod
    def of(
        cls,
        oracle: Oracle,
        objectives: Sequence[Objective],
        requirements: Sequence[Requirement],
        reference: str | None,
        repeats: Oracle | None = None,
    ) -> "Truth":
        """reference: the id of the design that relative requirements refer to. repeats: a table of some of these
        architectures on several seeds, which tells the noise where `oracle` has one seed of each.

        Raises OracleError where the table does not know what is asked for.
        """
        entries = oracle.known([*objectives, *(r.objective for r in requirements)])
        names = ", ".join(objective.name for objective in objectives)
        if not entries:
            raise OracleError(f"The table knows no architecture's {names}; build it further with build_oracle.py.")
        signs = np.array([1.0 if o.direction == "minimize" else -1.0 for o in objectives])
        raw = np.array([[entry.mean(o) for o in objectives] for entry in entries.values()]) * signs
        able = np.ones(len(entries), dtype=bool)
        for requirement in requirements:
            level = None
            if requirement.relative_to_reference:
                if reference not in entries:
                    raise OracleError(f"The table lacks {requirement.baseline}, which {requirement} refers to.")
                level = _exact(entries[reference].mean(requirement.objective))
            found = (_exact(entry.mean(requirement.objective)) for entry in entries.values())
            able &= np.array([requirement.satisfied(number, level) for number in found])
        if able.sum() < 2:
            raise OracleError(f"{able.sum()} architectures of the table meet the requirements; loosen them.")
        low = raw[able].min(axis=0)
        span = np.where(np.ptp(raw[able], axis=0) > 0, np.ptp(raw[able], axis=0), 1.0)
        values = (raw - low) / span
        ids = tuple(entries)
        places = np.flatnonzero(able)
        front = tuple(ids[places[i]] for i in non_dominated(values[able]))
        noise = np.array([(repeats or oracle).noise(objective) for objective in objectives]) / span
        return cls(ids=ids, values=values, able=able, noise=noise, front=front)

    def rows_of(self, found: Iterable[str]) -> np.ndarray:
        """Places of those that were found and are able."""
        place = {identity: i for i, identity in enumerate(self.ids)}
        rows = np.array([place[identity] for identity in found if identity in place], dtype=int)
        return rows[self.able[rows]]

    def volume(self, found: Iterable[str]) -> float:
        """Hypervolume of what was found, as a share of that of the true front."""
        return self._volume(self.values[self.rows_of(found)]) / self._volume(self.values[self.rows_of(self.front)])

    def volumes(self, found: Sequence[str]) -> np.ndarray:
        """[len(found)]: `volume` after each of a search's architectures, in the order in which it found them."""
        whole = self._volume(self.values[self.rows_of(self.front)])
        place = {identity: i for i, identity in enumerate(self.ids)}
        kept = np.empty((0, self.values.shape[1]))
        volume, volumes = 0.0, np.empty(len(found))
        for n, identity in enumerate(found):
            row = place.get(identity)
            if row is not None and self.able[row] and not np.any(np.all(kept <= self.values[row], axis=1)):
                kept = np.vstack([kept, self.values[row]])
                kept = kept[non_dominated(kept)]
                volume = self._volume(kept) / whole
            volumes[n] = volume
        return volumes

    def recovered(self, found: Sequence[str], *, within_noise: bool) -> float:
        """Share of the true front that was found.

        within_noise: a member also counts as found when something able was found that is worse by no more than one
        standard deviation over seeds in any objective (costs have none).
        """
        rows = self.rows_of(found)
        values = self.values[rows]
        tolerance = self.noise if within_noise else np.zeros_like(self.noise)
        hits = [bool(np.any(np.all(values <= member + tolerance, axis=1))) for member in self._front_values]
        return float(np.mean(hits))

    @property
    def _front_values(self) -> np.ndarray:
        return self.values[self.rows_of(self.front)]

    def _volume(self, values: np.ndarray) -> float:
        return hypervolume(values, np.full(self.values.shape[1], 1.0 + MARGIN))


def _exact(value: float) -> Measurement:
    return Measurement.exact(value, "")
