"""The one exception that means "the user can mend this"."""

import traceback
from pathlib import Path


class UserError(ValueError):
    """A mistake in what the user gave, told in one sentence: what was wrong, and what is right.

    The command line prints the sentence and exits with code 2; it shows no traceback. Anything that
    is our own mistake raises something else and keeps its traceback.
    """


class Waiting(Exception):
    """The oracle answers elsewhere and later: the run stops, and goes on when it has. The sentence says what to do.

    Nothing is wrong and nothing is lost. The command line prints the sentence and exits with code 3.
    """


def is_ours(thing: object) -> bool:
    """Whether a function or class is the library's own, so that what it raises is our mistake."""
    return getattr(thing, "__module__", "").startswith("activebdl.")


def words(error: Exception) -> str:
    """An error's kind and its first line, for some go on for pages; without a full stop."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(". :")


def told(error: Exception) -> str:
    """What the user's own code raised when we called it: its kind and first line, and the line of that code, if any."""
    caller, *deeper = traceback.extract_tb(error.__traceback__)
    frames = [
        frame
        for frame in deeper
        if frame.filename != caller.filename and not frame.filename.startswith("<")  # not what a dataclass generates
    ]
    own = [frame for frame in frames if frame.filename == frames[0].filename]  # not of what it called in turn
    return f"{words(error)} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else words(error)
