"""Parsing of command lines, exit statuses and error messages."""
