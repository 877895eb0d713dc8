"""A loaded model lent to the commands of the same user, over a socket that only that user can open.

place.py      where the socket is, what it is called, who may be at its other end, and how messages are framed
listening.py  the side of a server; the asking side is `cli/asking.py`
"""

from __future__ import annotations
