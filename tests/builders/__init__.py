"""What the tests build for themselves: small data sets by number, and a whole demo dump."""
