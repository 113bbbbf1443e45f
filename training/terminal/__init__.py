"""What a run prints: the lines of the original, or short lines for people."""
