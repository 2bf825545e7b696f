"""Published checkpoints, read and written; and our own format."""
