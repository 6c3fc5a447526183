"""Ray Serve's own choice of a replica, by its own class. Serve loads this wherever there is a handle."""

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, RunningReplica


class Anywhere(PowerOfTwoChoicesRequestRouter):
    """The less busy of two replicas, drawn at random; the one that the Router names in the request is not looked at."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,  # noqa: ARG002 - it holds the name
    ) -> list[list[RunningReplica]]:
        chosen: list[list[RunningReplica]] = await super().choose_replicas(candidate_replicas)
        return chosen
