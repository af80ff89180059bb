"""What the standard asks of a shared image, how a file is rewritten to obey, and the proof that it did."""
