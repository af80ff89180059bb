"""Ask remote machines how they are, and tell it each morning."""
