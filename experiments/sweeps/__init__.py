"""Many jobs from one pass over the images."""
