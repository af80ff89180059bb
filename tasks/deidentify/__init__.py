"""Make shareable copies of images: what the standard asks for, how a file is rewritten, and the proof that it worked."""
