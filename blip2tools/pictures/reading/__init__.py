"""Words in a picture: found, turned upright, recognised and put in order, in a process that can be killed.

reader.py       the owner's end: one process, bounded in time and memory
process.py      the other end, with rapidocr and onnxruntime in it
page.py         from pixels to lines: strips, turn, tilt, recognition
networks.py     the library's two networks: where lines are, what they say
boxes.py        corners of lines, and those that two strips both saw
order.py        reading order: columns, tables, rows
"""
