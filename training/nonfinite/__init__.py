"""Non-finite training steps: skip a limited number, then replay the step to find the cause."""
