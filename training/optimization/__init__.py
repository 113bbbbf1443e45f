"""Plan of a training run by epoch and step, and its optimizer."""
