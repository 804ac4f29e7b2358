"""Clients for application backends, a blocking one and one for asyncio, with deadlines and retries.

    with Client("localhost:50051") as client:
        reply = client.score(prompt="What is it?", response="It might be gout.", include_evidence=True)
        for indicator in reply.indicators:
            print(indicator.name, indicator.flagged)

Why did it get this verdict? For callers with the role `explain`, of a pair or of the id of one whose texts are kept:

    explanation = client.explain(prompt="What is it?", response="It might be gout.")
    print(explanation.summary)

Over TLS, and to a server that wants to know who calls:

    Client("scopewatch.example:50051", tls_ca="ca.pem", token="the token")

Replies are the protobuf messages of `scopewatch.v1`, explanations `scopewatch.explanation.Explanation`. Failures are
`scopewatch.errors`: InvalidRequest names the field, Unauthenticated, NotAllowed, NotKept, Overloaded says when to come
back, DeadlineExpired, NotReady, EngineError.
"""

from scopewatch.client.clients import AsyncClient, Client, to_dict
from scopewatch.client.requests import InputFields, ScoreFields, in_batches, request
from scopewatch.turn import Turn
from scopewatch.v1 import monitor_pb2 as pb

__all__ = ["AsyncClient", "Client", "InputFields", "ScoreFields", "Turn", "in_batches", "pb", "request", "to_dict"]
