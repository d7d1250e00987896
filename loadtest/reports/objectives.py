"""Which requests met their objectives.

Its own module because goodput, energy per good token, comparisons and capacity must all mean
the same by a good request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.run import Ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadtest.run import Requests, Run

    Marks = NDArray[np.bool_]


class Judgement(NamedTuple):
    """Marks on requests, one for each row.

    Attributes:
        judged: its class has objectives.
        ttft_met: it completed, and its first token came in time.
        tpot_met: it completed, and its tokens came fast enough; a single one always does.

    """

    judged: Marks
    ttft_met: Marks
    tpot_met: Marks

    @property
    def good(self) -> Marks:
        """It met every objective."""
        return self.judged & self.ttft_met & self.tpot_met

    def select(self, rows: Marks) -> Judgement:
        """Keep some rows."""
        return Judgement(*(column[rows] for column in self))


def judge(run: Run, requests: Requests) -> Judgement:
    """Judge requests of a run by the objectives of their classes.

    Latencies count from the schedule. The quality of what served a request is the server's
    business; a run does not know it.
    """
    objectives = [each.objective for each in run.classes]
    # A request of no known class has no objectives; the last entry is for an index of −1.
    known = np.array([each is not None for each in objectives] + [False])
    ttft_s = np.array([math.inf if each is None else each.ttft_s for each in objectives] + [0.0])
    tpot_s = np.array([math.inf if each is None else each.tpot_s for each in objectives] + [0.0])
    rows = requests.service_class
    completed = requests.ending == Ending.COMPLETED
    # Comparisons with NaN are false: without a first token nothing is met.
    in_time = requests.ttft_s <= ttft_s[rows]
    fast = (requests.tpot_s <= tpot_s[rows]) | (requests.completion_tokens <= 1)
    return Judgement(known[rows], completed & in_time, completed & fast)
