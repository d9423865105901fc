"""C++ kernels for x86-64: the whole step of a model as one call, without Python in it.

May import: kernels, modules.
"""
