"""The audit of an export, which shares no code with what made it."""
