"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in what the user gave, told in one sentence: what was wrong, and what is right.

    The command line prints the sentence and exits with code 2; it shows no traceback. Anything that
    is our own mistake raises something else and keeps its traceback.
    """
