"""What a person can do something about."""


class CollectorError(Exception):
    """A collector cannot go on. Its text is one clear line for a person and holds no secret and no username."""
