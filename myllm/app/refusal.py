"""Refused requests: one sentence, an HTTP status, and where the mistake is."""

from collections.abc import Mapping
from typing import Any

from myllm.checks import check
from myllm.files import UserError

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(UserError):
    """Raised for a request that is not served.

    Args:
        message: One sentence for the client.
        status: The HTTP status.
        param: The invalid option, if any.
        code: A machine-readable code.
        headers: Further headers of the response, such as ``Retry-After``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """The response in the format of OpenAI's errors."""
        kind = "server_error" if self.status >= 500 else TYPES.get(self.status, "invalid_request_error")
        found = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": found}


def busy(seconds: int = 1) -> Refusal:
    """The refusal when too many requests are waiting."""
    return Refusal(
        "Too many requests are waiting; try again later.",
        status=503,
        code="overloaded",
        headers={"Retry-After": str(seconds)},
    )


def fault() -> Refusal:
    """The refusal after an internal error, whose details stay in the log."""
    return Refusal("Something went wrong on the server; its log says more.", status=500)


def checked(name: str, value: Any, *kinds: Any, bounds: tuple[float, float] | None = None) -> Any:
    """A value that passes `myllm.checks.check`; any other is refused."""
    try:
        check(name, value, *kinds, bounds=bounds)
    except UserError as error:
        raise Refusal(str(error), param=name.partition("[")[0]) from None
    return value


def need(body: Mapping[str, Any], name: str) -> Any:
    """The value of a required option."""
    if name not in body:
        raise Refusal(f"{name} is missing.", param=name)
    return body[name]
