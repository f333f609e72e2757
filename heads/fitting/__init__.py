"""How the numbers of a head are found."""
