"""``python -m mien``: the same as ``mien``."""

from mien.cli import main

if __name__ == "__main__":
    main()
