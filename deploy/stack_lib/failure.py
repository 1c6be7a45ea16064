"""The one exception that ends a command with a message instead of a traceback."""


class StackFailure(Exception):
    """Something a person can act on: says what failed, with which value, and the next step.

    `code` is the exit status: 1 a server failed, 2 bad usage or a missing program.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
