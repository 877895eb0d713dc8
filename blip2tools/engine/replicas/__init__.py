"""One engine made of many: replicas on Ray Serve that batch, behind the interface of an engine. Needs the extra `ray`.

cluster.py   a Ray of one's own on loopback addresses, or somebody's cluster
replica.py   what runs in a replica: an engine with its model, and nothing else
pictures.py  encoded pictures that every gateway reaches by their handles
engine.py    the gateway's side: requests out, answers back, one retry when a replica dies
"""
