"""The one exception that people meet: a sentence that says what is wrong, what is allowed and what to type."""


class InputError(ValueError):
    """Input that gradflow cannot use. Scripts print its message as one line and leave with exit code 2."""


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)
