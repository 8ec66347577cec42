//! A flow's parameters as Prefect's deployments describe them.

use serde_json::{Map, Value, json};

use crate::domain::flow::{FlowDefinition, ParameterKind};

/// JSON schema of the parameters, as Prefect's deployments carry it.
pub fn parameter_schema(flow: &FlowDefinition) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (position, parameter) in flow.parameters.iter().enumerate() {
        let mut schema = match parameter.kind {
            ParameterKind::Text | ParameterKind::Path => json!({"type": "string", "minLength": 1}),
            ParameterKind::Number => json!({"type": "number"}),
            ParameterKind::FrameRate => json!({"type": "number", "exclusiveMinimum": 0}),
            ParameterKind::PositiveInteger => json!({"type": "integer", "minimum": 1}),
            ParameterKind::OnDamage => json!({"type": "string", "enum": ["keep", "fail"]}),
            ParameterKind::CaptionIds => json!({
                "type": "array", "minItems": 1, "maxItems": 10_000, "items": {"type": "integer", "minimum": 1},
            }),
            ParameterKind::CropBounds => json!({
                "type": "object",
                "additionalProperties": false,
                "required": ["left", "top", "right", "bottom"],
                "properties": {
                    "left": {"type": "integer", "minimum": 0},
                    "top": {"type": "integer", "minimum": 0},
                    "right": {"type": "integer", "minimum": 1},
                    "bottom": {"type": "integer", "minimum": 1},
                },
            }),
        };
        schema["title"] = json!(parameter.name);
        schema["description"] = json!(parameter.description);
        schema["position"] = json!(position);
        match &parameter.default {
            // Found out where the work is done.
            Some(Value::Null) => {}
            Some(default) => schema["default"] = default.clone(),
            None => required.push(parameter.name.clone()),
        }
        properties.insert(parameter.name.clone(), schema);
    }
    json!({
        "title": "Parameters",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        "definitions": {},
    })
}
