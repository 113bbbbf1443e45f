"""Processes that train together: launch, connection, collectives, faults."""
