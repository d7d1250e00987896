"""The virtual cluster against a real one, on the same requests.

    jouleserve up --detach
    python -m scripts.compare_simulator --address 127.0.0.1:9000 --out comparison.json

A first trace is served for real and the step models are fitted to it, in a simulation in which
each request goes to the replica that really served it, so that routing is no part of the fit. A
second trace of another seed is served for real and then simulated: through the whole virtual
cluster, with its own routing, and once more with each request where it really was. The first is
the comparison that counts; the second tells what of an error is due to routing.

Recorded measurements can be analysed again without a cluster: `--from-json comparison.json`.
"""
