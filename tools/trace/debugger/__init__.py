"""A debugger for driver calls: `python -m tools.trace --pause generate "Hello"`.

It stops the program before a call, tells where that is, looks into device memory, and goes on as told. session.py is
the listener and the conversation; table.py knows the commands, each group of them in a file of its own.
"""
