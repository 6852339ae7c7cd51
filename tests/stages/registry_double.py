"""The client's own mock registry, with compatibility levels and a list of every write."""

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError, ServerConfig

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
        self.mode = "READWRITE"
        self.configs = {}
        self.gone = {}
        self.answers = {}

    def get_compatibility(self, subject_name=None):
        if subject_name not in self.levels and not self.get_versions(subject_name):
            raise SchemaRegistryError(404, 40401, "Subject not found.")
        return self.levels.get(subject_name, self.levels[None])

    def get_config(self, subject_name=None):
        return ServerConfig.from_dict(self.configs.get(subject_name, {}))

    def get_mode(self, subject_name):
        return self.mode

    def get_versions(self, subject_name, deleted=False, **more):
        gone = self.gone.get(subject_name, {}) if deleted else {}
        return sorted({*super().get_versions(subject_name, **more), *gone})

    def get_version(self, subject_name, version="latest", deleted=False, **more):
        if deleted and version in self.gone.get(subject_name, {}):
            return self.gone[subject_name][version]
        return super().get_version(subject_name, version, **more)

    def get_schema(self, schema_id, *arguments, **more):
        return self.answers.get(schema_id) or super().get_schema(schema_id, *arguments, **more)

    def set_compatibility(self, subject_name=None, level=None):
        self.writes.append(("level", subject_name, level))
        self.levels[subject_name] = level

    def register_schema(self, subject_name, schema, normalize_schemas=False):
        if self.refuse is not None:
            raise self.refuse
        self.writes.append(("schema", subject_name))
        return super().register_schema(subject_name, schema, normalize_schemas)

    def delete(self, subject, version):
        """Somebody deletes a version, softly."""
        there = super().get_version(subject, version)
        self._store.remove_by_schema(there)
        self.gone.setdefault(subject, {})[version] = there

    def put(self, subject, text, kind="AVRO"):
        """A version that somebody else registered."""
        return super().register_schema(subject, Schema(text, kind))


def registry():
    """A registry on that client, and the client."""
    client = CountingClient()
    return Registry("http://registry.test", client=client), client
