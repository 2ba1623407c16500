//! The OpenAPI document, made of the table of routes.

use super::Route;
use crate::tree::openapi::openapi_paths;
use serde_json::{Map, Value, json};

/// OpenAPI 3.1 of these routes.
pub fn document(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = in_path
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(route.query.iter().map(
            |(name, what)| json!({ "name": name, "in": "query", "description": what, "schema": { "type": "string" } }),
        ));
        let mut answers = json!({ "200": { "description": "Done", "content": { route.answer: {} } } });
        for (code, what) in [
            ("400", "The request is wrong; the text says why"),
            ("401", "The token is missing or wrong"),
            ("403", "Not from there: a foreign page, a proxy, another name"),
            ("404", "There is nothing of that name"),
            ("409", "Not as things stand; the text says why"),
            ("503", "The supervisor is busy or stopping"),
        ] {
            answers[code] = json!({ "description": what, "content": { "text/plain": {} } });
        }
        let mut operation = json!({ "summary": route.summary, "parameters": parameters, "responses": answers });
        if route.path.ends_with("/upgrade") {
            operation["requestBody"] = json!({
                "required": false,
                "content": { "application/json": { "schema": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": { "program": { "type": "string", "description": "path of the new program" } },
                } } },
            });
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation;
    }
    if let Value::Object(of_tree) = openapi_paths() {
        paths.extend(of_tree);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vsekai-supervisor",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keeps game servers running, and a tree of state for operators and servers.",
        },
        "paths": paths,
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{}, { "token": [] }],
    })
}
