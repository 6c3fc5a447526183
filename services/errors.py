"""Errors that a client sees, in OpenAI's shape."""


class ApiError(Exception):
    """An error with a status, the field it is about, and a message that names the value and what was expected."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def kind(self) -> str:
        """OpenAI's error type for the status."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
