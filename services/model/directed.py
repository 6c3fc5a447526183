"""Sends a request to the Model replica that its Router chose. Serve loads this wherever there is a handle."""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class Directed(RequestRouter):
    """The replica named in the request first, if it is there; otherwise, or when it takes no more, the least busy.

    The name travels as the session id. A multiplexed model id would do, too, but Serve keeps a request that has one,
    with its screen, until a mixin of its own routers looks for it.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # or Serve asks again at once while all are full
        wanted = pending_request.metadata.session_id
        chosen = [replica for replica in candidate_replicas if replica.replica_id.unique_id == wanted]
        others = [replica for replica in candidate_replicas if replica.replica_id.unique_id != wanted]
        return [chosen, others] if chosen else [others]
