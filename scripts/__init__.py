"""What users run, and what it is made of.

`scripts`, `tools` and `benchmarks` are packages of these names everywhere. Python looks for modules
in the folder of the program that it starts; so each program that is started by its path begins with

    sys.path[0] = str(ROOT)  # see scripts/__init__.py

which puts the checkout in that folder's place: there the packages are found, and test.py does not
hide Python's own `test`. A module that is only imported has no such line.
"""
