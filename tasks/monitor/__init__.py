"""The night watch: what is asked of remote machines, what they answer, and what people are told about it."""
