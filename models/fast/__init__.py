"""Code that is there for speed or memory alone; each file says when it is used."""
