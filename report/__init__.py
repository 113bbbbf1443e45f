"""Report of a training run: one HTML file and figures, see docs/report.md."""
