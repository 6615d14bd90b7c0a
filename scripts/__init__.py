"""The programs that users run, and their modules.

All code imports `scripts`, `tools` and `benchmarks` as packages of these names. Python looks for
modules in the folder of the program that it starts. So each program that is started by its path
begins with

    sys.path[0] = str(ROOT)  # see scripts/__init__.py

which replaces that folder by the checkout. Python finds the packages there, and test.py does not
hide Python's own `test`. A module that is only imported has no such line.
"""
