"""The language of playbooks as a JSON Schema (draft 2020-12), for editors. Pure.

It is made of the very dataclasses that playbooks are checked against, those of plugins included, so it says what they
say: keys, types, defaults, and the docstrings of keys. It cannot say what depends on more than one value (that an image
is declared, that a name is there once); `banger validate` does.

An editor's YAML parser reads `0644` as a number, which then looks like any other, so every number will do for a mode.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from banger.core.options import keys_of
from banger.core.play import MAXIMUM_VCPUS, MINIMUM_DISK, MINIMUM_MEMORY, MINIMUM_OVERLAY, NAME
from banger.core.request import AUTO, AUTOMATIC, DEFAULT_NETWORK_KIND, Declared, ImageKeys, NetworkKeys, VmKeys
from banger.core.tasks import Keywords
from banger.core.variables import NAME as VARIABLE
from banger.core.variables import RESERVED
from banger.scalars import FileMode, GuestFilePath, GuestPath, Ipv4Address, NamespaceName, OwnerId, Size, Subnet

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_REF_INCLUDE: Schema = {"$ref": "#/$defs/include"}
_TEMPLATE: Schema = {"$ref": "#/$defs/template"}
_NO_PARENT = r"(?!.*/\.\.(/|$))"
_PRINTABLE = r"[^\u0000-\u001f\u007f]*"

# How the values that are more than plain text or numbers are written. One that is not here may be anything.
_WRITTEN: Mapping[type, Schema] = {
    Size: {"type": ["integer", "string"], "minimum": 0, "pattern": r"^\s*[0-9]+\s*([KMGT]iB|B|)\s*$"},
    FileMode: {"type": ["integer", "string"], "minimum": 0, "maximum": 7777, "pattern": "^0?[0-7]{3,4}$"},
    GuestFilePath: {"type": "string", "pattern": f"^{_NO_PARENT}/{_PRINTABLE}[^/\\u0000-\\u001f\\u007f]$"},
    GuestPath: {"type": "string", "pattern": f"^{_NO_PARENT}/{_PRINTABLE}$"},
    OwnerId: {"type": "integer", "minimum": 0, "maximum": 2**32 - 2},
    Subnet: {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9.]{1,15}$"},
    Ipv4Address: {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$"},
    NamespaceName: {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"},
}

# `minimum` and `maximum` bear on numbers alone: 512 is too small a memory, and 512MiB is text.
_LIMITS: Mapping[str, Schema] = {
    "vcpus": {"minimum": 1, "maximum": MAXIMUM_VCPUS},
    "memory": {"minimum": int(MINIMUM_MEMORY)},
    "root_disk": {"minimum": int(MINIMUM_DISK)},
    "work_disk": {"minimum": int(MINIMUM_DISK)},
    "overlay": {"minimum": int(MINIMUM_OVERLAY)},
}


def schema_of(declared: Declared) -> Schema:
    """The schema of playbooks that use what these plugins declare."""
    definitions: Schema = {
        "template": {
            "description": "A Jinja2 template; exactly one {{ expression }} keeps the expression's own type.",
            "type": "string",
            "pattern": r"\{\{|\{%|\{#",
        },
        "loop": {"anyOf": [{"type": "array"}, _TEMPLATE], "description": "A list: one for each {{ item }} of it."},
    }
    sources = {name: source.options for name, source in declared.image_sources.items()}
    kinds = {name: kind.options for name, kind in declared.network_kinds.items()}
    definitions["image"] = _plugged(definitions, "image", ImageKeys, "source", sources)
    definitions["network"] = _plugged(definitions, "network", NetworkKeys, "plugin", kinds, DEFAULT_NETWORK_KIND)
    definitions["vm"] = _vm(definitions, declared)
    definitions["defaults"] = _defaults(definitions["vm"])
    options = {name: module.options for name, module in declared.modules.items()}
    definitions["task"] = _task(definitions, options)
    definitions["play"] = _play()
    definitions["include"] = _include(definitions["play"])
    return {
        "$schema": DIALECT,
        "title": "A playbook of banger",
        "type": "array",
        "items": {"if": {"required": ["include"]}, "then": _REF_INCLUDE, "else": {"$ref": "#/$defs/play"}},
        "$defs": definitions,
    }


def _play() -> Schema:
    return _closed(
        {
            "name": {"type": "string", "description": "For people."},
            "vars": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{VARIABLE.pattern}$", "not": {"enum": sorted(RESERVED)}},
                "description": "Variables for templates.",
            },
            "vars_files": {**_list({"type": "string"}), "description": "YAML files of variables."},
            "defaults": {"anyOf": [{"$ref": "#/$defs/defaults"}, {"type": "null"}]},
            "images": _list({"$ref": "#/$defs/image"}),
            "networks": _list({"$ref": "#/$defs/network"}),
            "vms": _list({"$ref": "#/$defs/vm"}),
            "tasks": _list({"$ref": "#/$defs/task"}),
        }
    )


def _include(play: Schema) -> Schema:
    """Another playbook in place of a play; it has a play's name and variables."""
    file = {"type": "string", "minLength": 1, "description": "Another playbook, relative to this one."}
    shared = {key: play["properties"][key] for key in ("name", "vars")}
    return {**_closed({**shared, "include": file}), "required": ["include"]}


def _plugged(
    definitions: Schema, what: str, keys: type, chooser: str, plugins: Mapping[str, type], default: str | None = None
) -> Schema:
    """An image or a network: what all have, and what the plugin that `chooser` names has.

    Where that is a template, which plugin it is, and so what keys there are, is not known.
    """
    common = _named(_object(definitions, what, keys))
    chosen: Schema = {"anyOf": [{"enum": sorted(plugins)}, _TEMPLATE]}
    if default is not None:
        chosen["default"] = default
    common["properties"][chooser] = chosen
    branches = []
    for name, options in sorted(plugins.items()):
        own = _object(definitions, f"{what}-{name}", options)
        definitions[f"{what}-{name}"] = {
            **own,
            "properties": {**own["properties"], **common["properties"]},
            "required": [*common["required"], *(key for key in own["required"] if key not in keys_of(keys))],
        }
        # Without `required`, a property that is not there is any value: so the default's branch is taken.
        choice: Schema = {"properties": {chooser: {"const": name}}}
        if name != default:
            choice["required"] = [chooser]
        branches.append({"if": choice, "then": {"$ref": f"#/$defs/{what}-{name}"}})
    open_ended = {key: value for key, value in common.items() if key != "additionalProperties"}
    return {**open_ended, "allOf": branches} if branches else open_ended


def _vm(definitions: Schema, declared: Declared) -> Schema:
    made = _named(_object(definitions, "vm", VmKeys))
    for role, names in declared.roles.items():
        about = {key: made["properties"][role][key] for key in ("default",) if key in made["properties"][role]}
        choices = [*([AUTO] if role in AUTOMATIC else []), *names]
        made["properties"][role] = {**about, "anyOf": [{"enum": choices}, _TEMPLATE]}
    for key, limits in _LIMITS.items():
        made["properties"][key] |= limits
    for value in made["properties"].values():
        if {"type": "null"} in value.get("anyOf", ()):  # may be taken back, where a default has it
            value["anyOf"].append({"const": "none"})
    return {**made, "properties": {**made["properties"], "loop": {"$ref": "#/$defs/loop"}}}


def _defaults(vm: Schema) -> Schema:
    """What the VMs of a play share: any key but those that make one VM."""
    shared = {key: value for key, value in vm["properties"].items() if key not in ("name", "loop")}
    return {**_closed(shared), "description": "What all VMs of the play have unless they say otherwise."}


def _task(definitions: Schema, modules: Mapping[str, type]) -> Schema:
    """Keywords are not rendered; the options of the one module are."""
    condition: Schema = {"type": ["string", "boolean"], "not": _TEMPLATE}
    keywords: Schema = _object(definitions, "task", Keywords, templates=False)["properties"]
    keywords["when"] = {
        "anyOf": [condition, {"type": "array", "items": condition}],
        "description": "An expression, written without braces, or a list of them that must all be true.",
    }
    keywords["loop"] = {"$ref": "#/$defs/loop"}
    for name, options in sorted(modules.items()):
        made = _object(definitions, f"module-{name}", options)
        if not made["required"]:
            made["type"] = ["object", "null"]
        definitions[f"module-{name}"] = made
    known = {name: {"$ref": f"#/$defs/module-{name}"} for name in sorted(modules)}
    one_module: Schema = {"oneOf": [{"required": [name]} for name in known]} if known else {"not": {}}
    return {**_closed({**known, **keywords}), **one_module, "description": "One module with its options."}


# --- from dataclasses ------------------------------------------------------------------------------------------------


def _object(definitions: Schema, prefix: str, kind: type, *, templates: bool = True) -> Schema:
    """The schema of a dataclass. Those inside it become definitions of their own, with this prefix."""
    from pydantic import ConfigDict, TypeAdapter

    # As `options` has it: of a list, because a bare dataclass cannot be given a configuration from outside.
    config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)
    adapter = TypeAdapter(list[kind], config=config)  # type: ignore[valid-type]
    made = adapter.json_schema(ref_template=f"#/$defs/{prefix}.{{model}}", schema_generator=_generator())
    inner = {name: _finished(each, templates) for name, each in made.get("$defs", {}).items()}
    own = made["items"]
    own = inner[own["$ref"].rpartition(f"{prefix}.")[2]] if "$ref" in own else _finished(own, templates)
    definitions.update({f"{prefix}.{name}": each for name, each in inner.items()})
    return {"properties": {}, "required": [], **own}


def _generator() -> Any:
    """What tells pydantic how our own types are written; a class, and made only when pydantic is needed."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def function_plain_schema(self, schema: Any) -> Schema:
            return _written(getattr(schema["function"]["function"], "__self__", None))

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
            return {}  # what cannot be described may be anything: checking it is `validate`'s

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

        def encode_default(self, default: Any) -> Any:
            if isinstance(default, FileMode):
                return f"{default:04o}"
            return str(default) if isinstance(default, Size) else super().encode_default(default)

        def emit_warning(self, kind: Any, detail: str) -> None:
            """A default that is no JSON value is left out, and that is all there is to say."""

    return Generator


def _written(kind: object) -> Schema:
    if not isinstance(kind, type):
        return {}
    found = next((_WRITTEN[base] for base in kind.__mro__ if base in _WRITTEN), {})
    return {**found, "description": _first_paragraph(kind)}


def _first_paragraph(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split()).replace("`", "")


def _finished(schema: Schema, templates: bool) -> Schema:
    """Closed to keys that are not its own, and with room for templates wherever a value stands."""
    done = {key: value for key, value in schema.items() if key != "title"}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if key in done:
            done[key] = [_finished(each, templates) for each in done[key]]
    if "prefixItems" in done:
        done["prefixItems"] = [_value(each, templates) for each in done["prefixItems"]]
    for key in ("items", "additionalProperties"):
        if isinstance(done.get(key), dict):
            done[key] = _value(_finished(done[key], templates), templates)
    if "properties" in done:
        properties = {key: _value(_finished(value, templates), templates) for key, value in done["properties"].items()}
        done = {"type": "object", **done, **_closed(properties)}
    return done


def _value(schema: Schema, templates: bool) -> Schema:
    """What stands for a value, with a template as another way to write it; plain text may be one anyway."""
    arms = schema.get("anyOf", [schema])
    if not templates or schema == {} or any(_is_text(arm) for arm in arms):
        return schema
    told = [each for each in (schema, *arms) if "description" in each][:1]
    about = {key: each[key] for each in (*told, schema) for key in ("default", "description") if key in each}
    bare = [{key: value for key, value in arm.items() if key not in about} for arm in arms]
    return {**about, "anyOf": [*bare, _TEMPLATE]}


def _is_text(schema: Schema) -> bool:
    return schema.get("type") == "string" and not {"pattern", "format", "enum", "maxLength"} & schema.keys()


def _named(schema: Schema) -> Schema:
    """With the rule for the names of images, networks and VMs."""
    name = {"anyOf": [{"type": "string", "pattern": f"^{NAME.pattern}$"}, _TEMPLATE]}
    return {**schema, "properties": {**schema["properties"], "name": name}}


def _closed(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _list(item: Schema) -> Schema:
    return {"type": ["array", "null"], "items": item}
