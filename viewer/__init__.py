"""How a person looks at the result and says what they think of it."""
