//! Parts of the objects' schemas: what the API server refuses at once, with a message that says what to write. The
//! rules are CEL; each list and text that one looks at is bounded, because the API server bounds what rules may cost.
//!
//! What is refused here is refused by [`crate::from_spec`] too, which manifests and annotations go through.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Longest text of a duration or an amount.
const MAX_VALUE: u32 = 32;
/// Longest text of a moment: RFC 3339 allows any number of digits behind the second.
const MAX_MOMENT: u32 = 64;
/// Most bytes of a filter, as the filter's compiler takes it.
const MAX_FILTER: usize = 4096;
/// Longest name of an object.
const MAX_NAME: u32 = 253;
/// Longest UID. Kubernetes' have 36 characters.
const MAX_UID: u32 = 64;
/// Most pods in a list of names, and most destinations.
const MAX_NAMES: u32 = 128;
/// Most expressions of a selector.
const MAX_EXPRESSIONS: u32 = 16;
/// Most values of an expression.
const MAX_VALUES: u32 = 32;
/// Most labels of a selector.
const MAX_LABELS: u32 = 32;
/// Longest key of a label: a DNS name, a slash, and a word.
const MAX_KEY: u32 = 253 + 1 + 63;
/// Longest value of a label.
const MAX_LABEL: u32 = 63;

/// A whole number of at least 1, or a quantity of that size.
pub(crate) fn amount(_: &mut SchemaGenerator) -> Schema {
    number(1, "write a whole number of at least 1, or a quantity such as 10k, 100Mi or 1Gi")
}

/// A whole number that may be 0, or a quantity.
pub(crate) fn amount_or_none(_: &mut SchemaGenerator) -> Schema {
    number(0, "write a whole number, or a quantity such as 10k, 100Mi or 1Gi")
}

fn number(least: u8, message: &str) -> Schema {
    // 1.5Gi is whole, though CEL does not call it an integer. 9E is what fits 64 bits with a sign.
    let text = format!(
        "isQuantity(self) && (quantity(self).isInteger() || self.endsWith('i')) && \
         quantity(self).compareTo(quantity('{least}')) >= 0 && quantity(self).isLessThan(quantity('9E'))"
    );
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": MAX_VALUE,
        "x-kubernetes-validations": [{
            "rule": format!("type(self) == int ? self >= {least} : ({text})"),
            "message": message,
        }],
    })
}

/// A time span that is not zero.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    span(
        "&& duration(self) > duration('0s')",
        "write a duration such as 90s, 10m or 1h30m, longer than nothing (a day is 24h)",
    )
}

/// A time span that may be zero.
pub(crate) fn duration_or_none(_: &mut SchemaGenerator) -> Schema {
    span("|| self == '0'", "write a duration such as 90s, 10m or 1h30m (a day is 24h)")
}

/// A time span of a second or more.
pub(crate) fn duration_of_a_second(_: &mut SchemaGenerator) -> Schema {
    span(
        "&& duration(self) >= duration('1s')",
        "write a duration such as 90s, 10m or 1h30m, at least 1s (a day is 24h)",
    )
}

fn span(and: &str, message: &str) -> Schema {
    // Six digits: what CEL cannot read as a duration, it must not be asked to.
    const SPAN: &str = "self.matches('^([0-9]{1,6}([.][0-9]{1,9})?(h|m|s|ms|us|ns))+$')";
    json_schema!({
        "type": "string",
        "maxLength": MAX_VALUE,
        "x-kubernetes-validations": [{ "rule": format!("{SPAN} {and}"), "message": message }],
    })
}

/// A moment, RFC 3339.
pub(crate) fn moment(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": MAX_MOMENT })
}

/// A filter's text.
pub(crate) fn filter(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": MAX_FILTER })
}

/// The name of a destination.
pub(crate) fn output(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_NAME })
}

/// Names of destinations.
pub(crate) fn outputs(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_NAMES,
        "items": output(generator),
        "x-kubernetes-list-type": "set",
    })
}

/// Names of pods.
pub(crate) fn pod_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_NAMES,
        "items": { "type": "string", "maxLength": MAX_NAME },
        "x-kubernetes-list-type": "set",
        "x-kubernetes-validations": [{
            "rule": "self.all(name, name.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'))",
            "message": "a pod's name has lower-case letters, digits, '-' and '.' only; for more than names use podSelector",
        }],
    })
}

/// A label selector whose expressions make sense. With all bounds together, a capture's spec stays below
/// [`crate::MAX_SPEC`].
pub(crate) fn selector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = LabelSelector::json_schema(generator);
    let expression = json!({
        "type": "object",
        "description": "One requirement.",
        "required": ["key", "operator"],
        "properties": {
            "key": { "type": "string", "description": "The label's key.", "minLength": 1, "maxLength": MAX_KEY },
            "operator": {
                "type": "string",
                "description": "In and NotIn compare with values; Exists and DoesNotExist take none.",
                "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
            },
            "values": {
                "type": "array",
                "description": "What the label's value must be one of (In), or none of (NotIn).",
                "maxItems": MAX_VALUES,
                "items": { "type": "string", "maxLength": MAX_LABEL },
                "x-kubernetes-list-type": "atomic",
            },
        },
        "x-kubernetes-validations": [{
            "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "message": "In and NotIn need values; Exists and DoesNotExist take none",
        }],
    });
    schema.insert(
        "properties".to_owned(),
        json!({
            "matchExpressions": {
                "type": "array",
                "description": "Requirements that must all hold.",
                "maxItems": MAX_EXPRESSIONS,
                "items": expression,
                "x-kubernetes-list-type": "atomic",
            },
            "matchLabels": {
                "type": "object",
                "description": "Labels that must all be there with these values.",
                "maxProperties": MAX_LABELS,
                "additionalProperties": { "type": "string", "maxLength": MAX_LABEL },
                "x-kubernetes-validations": [{
                    "rule": format!("self.all(key, size(key) <= {MAX_KEY})"),
                    "message": format!("a label's key has at most {MAX_KEY} characters"),
                }],
            },
        }),
    );
    schema.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    schema
}

/// A name that a record keeps for good.
pub(crate) fn fixed_name(_: &mut SchemaGenerator) -> Schema {
    fixed(1, MAX_NAME)
}

/// A UID that a record keeps for good; it may be empty where there is no Kubernetes.
pub(crate) fn fixed_uid(_: &mut SchemaGenerator) -> Schema {
    fixed(0, MAX_UID)
}

/// Rules of the object around them: fields that are there stay there, and those that are not do not come.
pub(crate) fn fixed_presence(fields: &[&str]) -> Value {
    let rule = |field: &&str| {
        json!({
            "rule": format!("has(self.{field}) == has(oldSelf.{field})"),
            "message": format!("{field}: {FIXED}"),
        })
    };
    fields.iter().map(rule).collect()
}

/// Why what was said of a run stays so.
const FIXED: &str = "a record tells of one run for good: this never changes";

fn fixed(least: u32, most: u32) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": least,
        "maxLength": most,
        "x-kubernetes-validations": [{
            "rule": "self == oldSelf",
            "message": FIXED,
        }],
    })
}
