"""mien: the face in a picture becomes a consenting person's."""

__version__ = "0.1.0"
