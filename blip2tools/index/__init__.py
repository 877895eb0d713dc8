"""Pictures that can be found: an index of their contrastive (ITC) features on disk, and other stores behind one interface.

walk.py        the pictures in a folder
catalogue.py   the facts about each file (SQLite)
rows.py        the features, float16, mapped into memory
shelf.py       one folder's index: catalogue, rows and passes; one writer, many readers
passes.py      the quick pass that selects pictures for an exact comparison
nearest.py     a text's nearest pictures, and a picture's
library.py     the indexes of this user, by folder
stores.py      other places for the same rows: memory, LanceDB, Qdrant

Nothing here knows a model: features come as numbers, with the digest of the matcher that made them.
"""
