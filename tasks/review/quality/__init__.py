"""Numbers that point at trouble in one image: what a header, a head, a run or a set of directions gives away."""
