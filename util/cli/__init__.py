"""What the command lines of the project share."""
