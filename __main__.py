"""`python -m onepass` is the command line."""

from onepass.cli import onepass_program

onepass_program()
