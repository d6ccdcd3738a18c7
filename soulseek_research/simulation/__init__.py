"""A Soulseek network on 127.0.0.1: a server, branches of the tree, and people who search.

It speaks the real protocol, repeats itself exactly for a given seed, and keeps a list of what it sent, so that a test
can say what should have arrived. For the demo, the tests and the benchmark; it imports nothing else of this project.
"""
