"""What runs on the cluster. Each layer knows those above it in this list, and none below.

adapters, engine     a model with LoRA adapters in one process
model                the Model: that process as a replica of Ray Serve
catalogue            what there is: adapters, arms, the active router
learning             the Learner: from events to beliefs
routing              the Router: from a request to a decision and an answer
caching              what the replicas keep resident
insight              what people ask of the log
edge, routes, dashboard, gateway    HTTP
assembly, deployments, app, launch  all of it from settings, on Ray Serve
cli, training        the command line, and the routers that it trains

configuration and engines (parts from settings), schemas (wire types), tracing and background are for several of them.
"""
