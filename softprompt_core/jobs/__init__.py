"""Ways to run training jobs behind one protocol."""
