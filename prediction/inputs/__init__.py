"""What is predicted: images and frames, found and read one after the other."""
