"""The stages join the rooms: each takes one configuration record, says what it does, and holds no science."""
