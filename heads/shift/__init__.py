"""How far new images lie from those that a head was trained on, what that costs, and what can be done about it."""
