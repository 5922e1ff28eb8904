"""The root of every error that mdcluster raises on purpose.

Each package derives its own tree from :class:`MdclusterError`, so that a shell can turn
anything foreseen into one clear line and an exit code, and let only a bug be a traceback.
"""


class MdclusterError(Exception):
    """Something foreseen went wrong; the text says what, where, why and what to do."""
