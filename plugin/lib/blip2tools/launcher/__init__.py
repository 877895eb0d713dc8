"""Start of the server for clients: answers at once, finds or makes the environment, and hands the connection over.

Everything in this folder needs the standard library alone, and any Python from 3.9: a plugin carries a copy of it.

wire.py         lines of the protocol, bounded while they are read
catalogue.py    what can be answered before the server is there, as the server itself would
front.py        a client's first lines: answered, or kept in order for the server
environment.py  where the environment lies, and which Python can make it
building.py     makes the environment, in a process of its own
server.py       the real server as a child, from its start to its end
plugin.py       the whole of it, for a host that has nothing but Python
"""
