"""Everything that one stream has received, and whether that is a whole reply.

Its own module because it is the promise that nothing is lost silently, the same for both
clients; it also holds the tokens that a resumed request would have to replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protos.jouleserve import checksum, replies
from protos.jouleserve.errors import IncompleteStreamError

if TYPE_CHECKING:
    from protos.jouleserve.replies import Completion, Finish, TokenLogprobs, Tokens
    from protos.jouleserve.v1.inference_pb2 import GenerateResponse


class Transcript:
    """What a stream has received so far, in order."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._crc32 = 0
        self._logprobs: list[TokenLogprobs] = []
        self._finish: Finish | None = None
        self._after_finish = 0

    def add(self, message: GenerateResponse) -> Tokens | None:
        """Take in a message; gives its tokens, or None if it carries none."""
        if self._finish is not None:
            self._after_finish += 1
        match message.WhichOneof("event"):
            case "tokens":
                received = replies.tokens(message.tokens)
                self._texts.append(received.text)
                self._token_ids.extend(received.token_ids)
                self._crc32 = checksum.extend(self._crc32, received.token_ids)
                self._logprobs.extend(received.logprobs)
                return received
            case "finish":
                self._finish = replies.finish(message.finish)
        return None

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
