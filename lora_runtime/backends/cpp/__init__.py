"""The whole step as one C++ program."""
