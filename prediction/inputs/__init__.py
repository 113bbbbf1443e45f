"""Inputs of a prediction: find and read images and video frames."""
