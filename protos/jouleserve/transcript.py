"""Everything that one request has received, over all its calls, and whether it is a whole reply.

Its own module because it is the promise that nothing is lost silently, the same for both
clients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protos.jouleserve import checksum, replies
from protos.jouleserve.errors import IncompleteStreamError, Partial
from protos.jouleserve.resuming import Progress, gateway_lost

if TYPE_CHECKING:
    from protos.jouleserve.errors import JouleserveClientError
    from protos.jouleserve.replies import Completion, Finish, TokenLogprobs, Tokens
    from protos.jouleserve.v1 import inference_pb2 as pb


class Transcript:
    """What a request has received so far, in order."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._crc32 = 0
        self._logprobs: list[TokenLogprobs] = []
        self._variant = ""
        self._lost_calls = 0
        self._lost_begun = 0
        self._new_call()

    def _new_call(self) -> None:
        self._resumed = bool(self._token_ids)
        self._opened = False
        self._begun = False
        self._last: Tokens | None = None
        self._finish: Finish | None = None
        self._after_finish = 0

    def add(self, message: pb.GenerateResponse) -> Tokens | None:
        """Take in a message; gives the tokens that are to be passed on, or None.

        The last ones are held back until the finish is there: without it they would have to
        be asked for again, and there would be nothing to go on with after them.

        Raises:
            IncompleteStreamError: the call was to go on, and it has begun anew.

        """
        if self._finish is not None:
            self._after_finish += 1
        match message.WhichOneof("event"):
            case "tokens":
                return self._tokens(message.tokens)
            case "finish":
                self._finish = self._counted(replies.finish(message.finish))
                last, self._last = self._last, None
                return None if last is None else self._keep(last)
        return None

    def _tokens(self, message: pb.Tokens) -> Tokens | None:
        if self._resumed and not self._opened and not message.variant:
            raise IncompleteStreamError(
                f"the gateway that was to go on after {len(self._token_ids)} tokens cannot resume"
            )
        if self._last is not None:
            raise IncompleteStreamError("tokens came after those that were to be the last")
        self._opened = True
        self._variant = message.variant or self._variant
        received = replies.tokens(message)
        if message.last:
            self._last = received
            return None
        return self._keep(received)

    def _keep(self, received: Tokens) -> Tokens:
        self._texts.append(received.text)
        self._token_ids.extend(received.token_ids)
        self._begun |= bool(received.token_ids)
        self._crc32 = checksum.extend(self._crc32, received.token_ids)
        self._logprobs.extend(received.logprobs)
        return received

    def _counted(self, finish: Finish) -> Finish:
        """Add the lost calls of which the server was not told, for they had given nothing."""
        untold = self._lost_calls - self._lost_begun
        usage = replace(finish.usage, resumes=finish.usage.resumes + untold)
        return replace(finish, usage=usage)

    def call_lost(self) -> None:
        """Note that another call goes on after what was passed on."""
        self._lost_calls += 1
        self._lost_begun += self._begun
        self._new_call()

    def progress(self, fault: JouleserveClientError) -> Progress:
        """Say how far the request has come when its call has failed."""
        return Progress(
            fault,
            tuple(self._token_ids),
            self._variant,
            finished=self._finish is not None,
            lost_calls=self._lost_calls,
            lost_begun=self._lost_begun + self._begun,
        )

    def partial(self) -> Partial:
        """Give what has been passed on."""
        return Partial("".join(self._texts), tuple(self._token_ids))

    def end(self, fault: JouleserveClientError | None = None) -> Finish:
        """Give the finish of a call that has ended, by the fault or well.

        Raises:
            JouleserveClientError: the fault, unless only the status was lost, behind the finish.
            IncompleteStreamError: see `finish`.

        """
        if fault is not None and not (self._finish and gateway_lost(fault, finished=True)):
            raise fault
        return self.finish()

    def finish(self) -> Finish:
        """Give the end of a whole reply; to be asked once the stream has ended.

        Raises:
            IncompleteStreamError: there was no finish, it was not the last message, or it
                speaks of other tokens than those that arrived.

        """
        received = len(self._token_ids)
        if self._finish is None:
            raise IncompleteStreamError(f"the stream has no finish after {received} tokens")
        if self._after_finish:
            raise IncompleteStreamError("the finish was not the last message of the stream")
        if received != self._finish.usage.completion_tokens:
            generated = self._finish.usage.completion_tokens
            raise IncompleteStreamError(f"{received} tokens of {generated} arrived")
        if self._crc32 != self._finish.usage.completion_crc32:
            raise IncompleteStreamError("other tokens arrived than the engine generated")
        return self._finish

    def completion(self) -> Completion:
        """Give the whole reply; to be asked, and raising, as `finish`."""
        return replies.Completion(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish=self.finish(),
            logprobs=tuple(self._logprobs),
        )
