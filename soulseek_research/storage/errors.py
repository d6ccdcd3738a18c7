"""What goes wrong with the store, in words for people."""


class StorageError(Exception):
    """The store cannot do what was asked; the text is one clear line that says what to do and holds no secret."""
