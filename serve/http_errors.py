"""Errors as HTTP bodies, in OpenAI's shape.

Its own module because a gateway answers with them even where no OpenAI layer is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from serve.errors import JouleserveError


def error_response(error: JouleserveError) -> JSONResponse:
    """The error with its HTTP status."""
    body = {
        "message": str(error),
        "type": error.kind,
        "param": None,
        "code": error.http_status,
    }
    return JSONResponse({"error": body}, status_code=error.http_status)
