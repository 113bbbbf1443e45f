"""How a run optimizes: its stages, and the restored state of its optimizer."""
