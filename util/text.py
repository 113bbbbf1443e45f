"""Text of messages and captions."""


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural if needed.

    >>> count(1, "object"), count(2, "object")
    ('1 object', '2 objects')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
