"""How capacity grows with instances: the Universal Scalability Law, fitted to measured points.

C(n) = a n / (1 + s (n - 1) + k n (n - 1)): `a` of one instance, `s` what they queue for together
(a database), `k` what each has to agree upon with each other. Source: Gunther, Guerrilla Capacity
Planning, chapter 4. It is for growth only: the peak of the curve is saturation, and no capacity
within an objective.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FEWEST: Final = 3  # different counts of instances, for three unknowns
T_95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # two-sided, by freedom
MOST_POINTS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The curve; each half-width is of 95 %, and infinite where nothing is left to tell it."""

    one: float  # requests per second of one instance
    contention: float
    coherency: float
    contention_half: float
    coherency_half: float
    residual: float  # root of the mean square, relative

    def capacity(self, instances: float) -> float:
        spread = self.contention * (instances - 1) + self.coherency * instances * (instances - 1)
        return self.one * instances / (1 + spread)

    @property
    def peak(self) -> float:
        """Instances beyond which more carry less; infinite without coherency."""
        if self.coherency <= 0:
            return math.inf
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherency)

    @property
    def unsure(self) -> str | None:
        """Why the curve is not to be drawn beyond the points; None when it may be."""
        if self.contention_half == math.inf:
            return "as many points as unknowns: any three lie on a curve; measure one count more"
        if self.residual > 0.1:
            return f"the points are {self.residual:.0%} off the curve; measure for longer"
        if self.contention_half > 0.1 or self.coherency_half > 0.02:
            return "the points do not tell contention from coherency; measure more instances"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotIdentified:
    """No curve, and why."""

    because: str


def fit(points: Sequence[tuple[int, float]]) -> Law | NotIdentified:
    """The curve with the least squares of relative errors, from instances and capacity.

    n / C(n) = (1 + s (n - 1) + k n (n - 1)) / a is linear in 1/a, s/a and k/a, so that no start
    values are needed; a weight of C(n)/n makes the errors relative. A negative s or k, which noise
    makes, is set to zero and the rest is fitted again.
    """
    if len(points) > MOST_POINTS:
        return NotIdentified(because=f"{len(points)} points are more than {MOST_POINTS}")
    if any(n < 1 or not (math.isfinite(c) and c > 0) for n, c in points):
        return NotIdentified(because="every point needs instances and a capacity above zero")
    counts = {n for n, _ in points}
    if len(counts) < FEWEST:
        return NotIdentified(
            because=f"{len(counts)} different counts of instances; the curve needs {FEWEST}"
        )
    free = [0, 1, 2]
    found = _solved(points, free)
    while found is not None and min(found[0][1:]) < 0:
        solved = found[0]
        free.remove(min(free[1:], key=lambda i: solved[i]))
        found = _solved(points, free)
    if found is None or found[0][0] <= 0:
        return NotIdentified(because="the points lie on no such curve")
    return _law(points, *found, free)


def _law(
    points: Sequence[tuple[int, float]],
    solved: list[float],
    inverse: list[list[float]],
    free: list[int],
) -> Law:
    one, contention, coherency = 1 / solved[0], solved[1] / solved[0], solved[2] / solved[0]
    exact = Law(
        one=one, contention=contention, coherency=coherency,
        contention_half=0, coherency_half=0, residual=0,
    )  # fmt: skip
    squares = math.fsum((exact.capacity(n) / c - 1) ** 2 for n, c in points)
    freedom = len(points) - 3  # also where one was set to zero: that was learnt from the points
    half = [math.inf] * 3
    if freedom > 0:
        factor = T_95[min(freedom, len(T_95)) - 1] * math.sqrt(squares / freedom)
        half = [0.0] * 3
        for row, i in enumerate(free):
            half[i] = factor * math.sqrt(max(0.0, inverse[row][row])) / solved[0]
    return Law(
        one=one, contention=contention, coherency=coherency,
        contention_half=half[1], coherency_half=half[2],
        residual=math.sqrt(squares / len(points)),
    )  # fmt: skip


def _solved(
    points: Sequence[tuple[int, float]], free: list[int]
) -> tuple[list[float], list[list[float]]] | None:
    """The three unknowns, zero where not free, and the inverse of the normal matrix."""
    rows = [[(1.0, n - 1.0, n * (n - 1.0))[i] * c / n for i in free] for n, c in points]
    size = len(free)
    matrix = [
        [math.fsum(row[i] * row[j] for row in rows) for j in range(size)]
        + [float(i == j) for j in range(size)]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda r: abs(matrix[r][column]))
        if abs(matrix[pivot][column]) < 1e-12 * abs(matrix[0][0] or 1):
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        head = matrix[column][column]
        matrix[column] = [value / head for value in matrix[column]]
        for other in range(size):
            if other != column:
                by = matrix[other][column]
                matrix[other] = [
                    a - by * b for a, b in zip(matrix[other], matrix[column], strict=True)
                ]
    inverse = [row[size:] for row in matrix]
    right = [math.fsum(row[i] for row in rows) for i in range(size)]
    solved = [0.0] * 3
    for row, i in enumerate(free):
        solved[i] = math.fsum(a * b for a, b in zip(inverse[row], right, strict=True))
    return solved, inverse
