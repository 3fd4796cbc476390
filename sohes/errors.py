"""The one exception that users see as a sentence instead of a traceback."""


class SohesError(Exception):
    """Something the user can mend: one sentence with the value that is wrong and the remedy."""
