"""What is wrong with a data set, as far as its rows tell."""
