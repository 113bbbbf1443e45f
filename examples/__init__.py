"""Scripts with pictures as their result; each runs as ``python examples/NAME.py --help``."""
