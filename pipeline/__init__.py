"""Orders on Apache Kafka that are never lost, doubled or stuck.

The way of a record: an order is validated and serialised with its registered Avro schema (`produce`), lies in
`orders.v1`, and is worked off by a consumer group (`consume`): decoded, validated, handled, then committed. What can
never be worked off steps aside into `orders.dlq.v1` (`deadletters`), acknowledged there before its offset is committed.

This package imports nothing when it is imported: each door (`python -m pipeline.X`) loads what it needs.
"""
