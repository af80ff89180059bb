"""From the index to a tree a scientist can read, losing nothing."""
