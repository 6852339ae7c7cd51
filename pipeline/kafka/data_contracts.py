"""Rules that a registry has for the values of a schema: seen, and not carried out here.

Confluent's data contracts have clients encrypt fields, change or refuse values and migrate them between versions. A client that
does not know of them reads what is encrypted as if it were the value.
Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/data-contracts.html
"""

from typing import Any

RULED = (
    "has rules ({}), which are not carried out here: what they encrypt or change would be taken for the value itself. Take "
    "the rules out there, or use the client that carries them out."
)


def rules_of(schema: Any) -> str:
    """What a registry wants done to the values of a schema before they are written and after they are read, in words.

    Rules of Confluent's data contracts (`ruleSet`: encryption, conditions, migrations), and metadata that tell a client how
    to encrypt. Disabled ones count: who switches them on asks nobody here. Empty when there are none.
    """
    found = getattr(schema, "rule_set", None)
    kinds = ("migration_rules", "domain_rules", "encoding_rules")
    rules = [rule for kind in kinds for rule in getattr(found, kind, None) or ()]
    words = [f"{rule.type or 'rule'} {rule.name or ''}".strip() for rule in rules]
    properties = getattr(getattr(getattr(schema, "metadata", None), "properties", None), "properties", None) or {}
    words += [f"metadata {name}" for name in properties if name.lower().startswith("encrypt")]
    return ", ".join(dict.fromkeys(words))[:200]
