"""The client's error codes, told apart once for everybody: outage, refusal, or plain failure."""

import re

from confluent_kafka import KafkaError

from pipeline.errors import BrokerUnavailable, NotAuthorized, PipelineError, SettingsRefused, TopicRefused

# By the codes' names; a leading underscore is the client's own finding, the others are the broker's word.
# An outage passes by itself once the cluster is whole again, so it is waited for (promise P5). A failed TLS handshake
# is among them: a broker that restarts with an expired certificate must not stop every worker.
OUTAGE = frozenset(
    {
        "_ALL_BROKERS_DOWN",
        "_MSG_TIMED_OUT",
        "_NOENT",  # asked for offsets while no partition has a leader: a broker that has just come back
        "_RESOLVE",
        "_SSL",
        "_TIMED_OUT",
        "_TIMED_OUT_QUEUE",
        "_TRANSPORT",
        "_WAIT_COORD",
        "BROKER_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "FENCED_LEADER_EPOCH",
        "KAFKA_STORAGE_ERROR",
        "LEADER_NOT_AVAILABLE",
        "NETWORK_EXCEPTION",
        "NOT_CONTROLLER",
        "NOT_COORDINATOR",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "NOT_LEADER_FOR_PARTITION",
        "OFFSET_NOT_AVAILABLE",
        "REPLICA_NOT_AVAILABLE",
        "REQUEST_TIMED_OUT",
        "THROTTLING_QUOTA_EXCEEDED",
        "UNKNOWN_LEADER_EPOCH",  # a topic made a moment ago: its leader does not know yet that it is the leader
        "UNSTABLE_OFFSET_COMMIT",
    }
)
UNAUTHENTICATED = frozenset(
    {"_AUTHENTICATION", "ILLEGAL_SASL_STATE", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM"}
)
# What the operation is as a rule, where the caller does not say which one it was.
DENIED = {
    "CLUSTER_AUTHORIZATION_FAILED": "an ACL on the cluster",
    "GROUP_AUTHORIZATION_FAILED": "READ on the consumer group",
    "TOPIC_AUTHORIZATION_FAILED": "READ, WRITE or DESCRIBE on the topic, as it was used here,",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": "WRITE and DESCRIBE on the transactional id",
}
# Refused for good, for this one record: another one of the topic may well be taken.
TOO_LARGE = frozenset({"INVALID_MSG_SIZE", "MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"})
BAD_TIMESTAMP = frozenset({"INVALID_TIMESTAMP"})
_WAYS_OUT = {
    "_BAD_COMPRESSION": ". The batch that lies there cannot be decompressed, so nothing behind it is read: it is damaged, or was "
    "made to be very large. To go on behind it, stop the group's members and move the group: python -m pipeline.groups reset "
    "GROUP --topic TOPIC --partition N --to OFFSET, with an offset behind the batch. A topic with "
    "compression.type=uncompressed, as schemas/topics.toml declares it, takes no such batch",
}
TOPIC_ABSENT = frozenset({"_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_ID", "UNKNOWN_TOPIC_OR_PART"})


def other_protocol(said: str) -> str | None:
    """What answers there in place of a broker, by the four bytes that the client took for the size of an answer."""
    size = re.search(r"Invalid response size (-?\d+)", said)
    first = (int(size[1]) & 0xFFFFFFFF).to_bytes(4, "big") if size else b""
    if first == b"HTTP":
        return "an HTTP server answers there, such as the schema registry: the port is another one's"
    if first.startswith((b"\x15\x03", b"\x16\x03")):
        return "a TLS server answers there: set PIPELINE_KAFKA__SECURITY__PROTOCOL to SSL or SASL_SSL"
    return None


def translate(
    error: KafkaError, doing: str, *, needs: str | None = None, principal: str | None = None
) -> PipelineError:
    """Our error for the client's one, by its code alone; `doing` opens the message ("reading orders.v1").

    `needs` is the ACL that it takes ("DESCRIBE on Topic orders.v1"), `principal` who asks, where they are known: a denial then is
    `NotAuthorized`.

    An outage becomes `BrokerUnavailable`, failed authentication or authorisation `SettingsRefused`, an absent topic
    `TopicRefused`, anything else a `PipelineError` that names the code. Returned, not raised: raise it `from` the
    client's exception.
    """
    code, said = error.name(), error.str().rstrip(".")
    if code in OUTAGE:
        return BrokerUnavailable(f"{doing}: the cluster cannot do it now ({code}: {said})")
    if code in UNAUTHENTICATED:
        return SettingsRefused(
            f"{doing}: the broker does not accept these credentials ({said}). "
            "Check user, password, mechanism and protocol under PIPELINE_KAFKA__SECURITY__"
        )
    if code in DENIED:
        kind = NotAuthorized if needs else SettingsRefused
        who = f"User:{principal}" if principal else "this principal"
        return kind(
            f"{doing}: not authorized: {who} needs {needs or DENIED[code]} ({code}: {said}). Have that ACL added, then try again"
        )
    if code == "INVALID_TRANSACTION_TIMEOUT":
        return SettingsRefused(
            f"{doing}: the broker allows no transaction that long. Shorten PIPELINE_FORWARD__TRANSACTION_TIMEOUT_MS, or raise "
            "its transaction.max.timeout.ms"
        )
    if code in TOPIC_ABSENT:
        return TopicRefused(f"{doing}: the topic is not there ({said}). make topics creates the declared ones")
    return PipelineError(f"{doing}: {code}: {said}{_WAYS_OUT.get(code, '')}")
