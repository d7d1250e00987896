"""What travels from a replica to a gateway: one frame for all streams of the pair.

Its own module because it is the contract between two processes; a frame holds what
one engine step (or several, when the reader lags) produced for every stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from scheduler.fleet import ReplicaReport
    from serve.engine import EngineDelta


class RequestEnergy(NamedTuple):
    """The energy attributed to one request.

    Attributes:
        prefill_j: for computing its prompt tokens.
        decode_j: for its share of the decode steps it took part in.
        method: "model", "nvml" or "rapl".
        boundary: what is counted: "gpu", "cpu" or "node".
        share: of what the replica used while it had the request, idle included; 0 to 1.
        mean_power_w: its energy over the time that the replica had it.

    """

    prefill_j: float
    decode_j: float
    method: str
    boundary: str
    share: float = 0.0
    mean_power_w: float = 0.0

    @property
    def energy_j(self) -> float:
        """All of it."""
        return self.prefill_j + self.decode_j


class StreamFrame(NamedTuple):
    """What one stream got since its previous frame.

    Attributes:
        stream: the number that the gateway gave it.
        delta: merged in order; None when the stream failed before it produced more.
        energy: set with the last delta, and only there.
        error: class name (of serve.errors) and message, when the engine failed it.

    """

    stream: int
    delta: EngineDelta | None
    energy: RequestEnergy | None = None
    error: tuple[str, str] | None = None


class Frame(NamedTuple):
    """Everything that a replica has for a gateway at one moment.

    Attributes:
        replica: who sends it.
        accepted: streams of this gateway that the report, and all later ones, count.
        streams: in the order of their first token.
        report: the replica's totals, unless the previous one still holds.
        dropped: what streams of this gateway have used that did not finish.

    """

    replica: str
    accepted: list[int]
    streams: list[StreamFrame]
    report: ReplicaReport | None = None
    dropped: tuple[tuple[int, RequestEnergy], ...] = ()
