"""Which processes a service runs in."""


def replicas(deployment: str) -> set[int]:
    """The process ids of a deployment's replicas in the Ray cluster of this process, and of no other."""
    import ray._private.state as state  # without its dashboard Ray has no other way to ask

    living = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
    return {actor["Pid"] for actor in living if actor["ActorClassName"].endswith(f":{deployment}")}
