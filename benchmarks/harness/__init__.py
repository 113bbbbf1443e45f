"""How the benchmarks measure: cases, measured quantities, alternating rounds, tables."""
