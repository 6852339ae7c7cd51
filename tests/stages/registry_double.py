"""The client's own mock registry, with compatibility levels and a list of every write."""

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from pipeline.kafka.registry import Registry

# Its class has no public name; its URL has.
_MockClient = type(SchemaRegistryClient.new_client({"url": "mock://registry"}))


class CountingClient(_MockClient):
    """What the mock of the client lacks; `refuse` is raised by the next registration."""

    def __init__(self):
        super().__init__({"url": "mock://registry"})
        self.levels = {None: "NONE"}
        self.writes = []
        self.refuse = None

    def get_compatibility(self, subject_name=None):
        if subject_name not in self.levels and not self.get_versions(subject_name):
            raise SchemaRegistryError(404, 40401, "Subject not found.")
        return self.levels.get(subject_name, self.levels[None])

    def set_compatibility(self, subject_name=None, level=None):
        self.writes.append(("level", subject_name, level))
        self.levels[subject_name] = level

    def register_schema(self, subject_name, schema, normalize_schemas=False):
        if self.refuse is not None:
            raise self.refuse
        self.writes.append(("schema", subject_name))
        return super().register_schema(subject_name, schema, normalize_schemas)

    def put(self, subject, text, kind="AVRO"):
        """A version that somebody else registered."""
        return super().register_schema(subject, Schema(text, kind))


def registry():
    """A registry on that client, and the client."""
    client = CountingClient()
    return Registry("http://registry.test", client=client), client
