"""Memory, devices and processes of the machine."""
