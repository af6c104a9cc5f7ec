"""The one exception that people meet: a sentence that says what is wrong, what is allowed and what to type."""


class InputError(ValueError):
    """Input that gradflow cannot use. Scripts print its message as one line and leave with exit code 2."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shortened(text: str, length: int = 200) -> str:
    """A message that fits on the screen: the record of a failure has the whole."""
    return text if len(text) <= length else text[: length - 4] + " ..."


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)
