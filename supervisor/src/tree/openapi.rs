//! The tree's part of the API's OpenAPI 3.1 document.

use serde_json::{Value, json};

/// The `paths` of the tree, as they are when the router is nested under `/api/tree`.
pub fn openapi_paths() -> Value {
    let path = parameter("path", "path", true, json!({ "type": "string" }), "The node's path without its first slash.");
    let if_match = parameter("If-Match", "header", false, json!({ "type": "string" }), TAGS);
    let if_none_match = parameter("If-None-Match", "header", false, json!({ "type": "string" }), TAGS);
    let pattern = parameter(
        "pattern",
        "query",
        false,
        json!({ "type": "string", "default": "/**" }),
        "Which nodes: `*` is one component, `**` any number of them.",
    );
    let session = parameter("session", "path", true, number(), "The session's number.");
    let raw = parameter("raw", "query", false, json!({ "type": "boolean" }), "The payload alone.");
    json!({
        "/api/tree/node/{path}": {
            "parameters": [path],
            "get": operation("Read a node", json!([raw, if_none_match]), None, &[
                ("200", "The node, its tag in ETag.", node()),
                ("304", "It has that tag.", Value::Null),
                ("404", "There is none.", error()),
            ]),
            "put": operation("Set a node's payload", json!([
                if_match, if_none_match,
                parameter("session", "query", false, number(), "The node goes with this session."),
                parameter("ttl_ms", "query", false, number(), "The node goes after this time."),
                parameter("keep_while", "query", false, json!({ "type": "string" }),
                    "The node goes when this condition, in JSON, no longer holds."),
                parameter("no_payload", "query", false, json!({ "type": "boolean" }), "A node without payload."),
            ]), Some(("application/octet-stream", json!({}))), &[
                ("200", "The node was there.", put_result()),
                ("201", "The node is new.", put_result()),
                ("409", "The keep-while condition does not hold.", error()),
                ("412", "Its version is another.", error()),
                ("413", "Something is too large.", error()),
                ("507", "The tree is full.", error()),
            ]),
            "delete": operation("Delete a node and all below it", json!([if_match]), None, &[
                ("200", "How many nodes went.", counted()),
                ("404", "There is none.", error()),
                ("412", "Its version is another.", error()),
            ]),
        },
        "/api/tree/transaction": { "post": operation("Do operations if all checks hold", json!([]),
            Some(("application/json", transaction())), &[
                ("200", "All were done.", json!({ "type": "object", "properties": {
                    "revision": number(), "results": { "type": "array", "items": { "type": "object" } },
                } })),
                ("409", "A node is there already, or a keep-while condition does not hold.", error()),
                ("412", "A check or condition does not hold; `refusal` says which, and what was found.", error()),
            ]) },
        "/api/tree/list": { "get": operation("List nodes", json!([
            pattern,
            parameter("limit", "query", false, number(), "Most nodes."),
            parameter("after", "query", false, json!({ "type": "string" }), "Go on behind this path."),
        ]), None, &[("200", "Nodes in the order of their paths.", json!({ "type": "object", "properties": {
            "revision": number(),
            "nodes": { "type": "array", "items": node() },
            "next": { "type": ["string", "null"], "description": "List again after this path: there is more." },
        } }))]) },
        "/api/tree/count": { "get": operation("Count nodes", json!([pattern]), None, &[
            ("200", "How many there are.", counted()),
        ]) },
        "/api/tree/watch": { "get": operation("Follow changes", json!([
            pattern,
            parameter("cursor", "query", false, number(), "Begin after this revision instead of now."),
            parameter("Last-Event-ID", "header", false, number(), "The same, and counts more."),
        ]), None, &[
            ("200", "Server-sent events: `start`, then one `revision` for each with changes, `progress` now and then, all \
                with the cursor as id; at last `compacted`, when the watcher has fallen behind.",
                json!({ "x-content-type": "text/event-stream", "type": "string" })),
            ("410", "Changes after that cursor can't be told any more: read the tree again.", error()),
            ("503", "Too many watch.", error()),
        ]) },
        "/api/tree/session": {
            "get": operation("List sessions", json!([]), None, &[("200", "All that are open.", json!({
                "type": "object", "properties": { "sessions": { "type": "array", "items": session_view() } },
            }))]),
            "post": operation("Open a session", json!([]), Some(("application/json", json!({
                "type": "object", "required": ["ttl_ms"], "properties": { "ttl_ms": number() },
            }))), &[("201", "It is open.", session_view())]),
        },
        "/api/tree/session/{session}": {
            "parameters": [session],
            "post": operation("Renew a session", json!([]), None, &[
                ("200", "It lives for its whole time again.", session_view()),
                ("404", "It is not open.", error()),
            ]),
            "delete": operation("Close a session and delete its nodes", json!([]), None, &[
                ("200", "It is closed.", counted()),
                ("404", "It is not open.", error()),
            ]),
        },
        "/api/tree/export": { "get": operation("Export the whole tree", json!([]), None, &[
            ("200", "The tree as at the revision in Tree-Revision.", json!({ "type": "object" })),
            ("503", "Another export or import is under way.", error()),
        ]) },
        "/api/tree/import": { "post": operation("Put an export in the place of the whole tree", json!([]),
            Some(("application/json", json!({ "type": "object" }))), &[
                ("200", "How many nodes there are now.", counted()),
                ("422", "It is no whole tree.", error()),
            ]) },
        "/api/tree/status": { "get": operation("Revision, sizes and limits", json!([]), None, &[
            ("200", "How the tree is.", json!({ "type": "object" })),
        ]) },
    })
}

const TAGS: &str = "`*`, or tags of the node: \"CREATED.VERSION\" as in ETag, or \"VERSION\" of the payload alone.";

fn operation(summary: &str, parameters: Value, body: Option<(&str, Value)>, answers: &[(&str, &str, Value)]) -> Value {
    let mut responses = serde_json::Map::new();
    for (status, description, schema) in answers {
        let mut response = json!({ "description": description });
        if !schema.is_null() {
            let kind = schema["x-content-type"].as_str().unwrap_or("application/json").to_owned();
            response["content"] = json!({ kind: { "schema": schema } });
        }
        responses.insert((*status).to_owned(), response);
    }
    let mut operation =
        json!({ "tags": ["tree"], "summary": summary, "parameters": parameters, "responses": responses });
    if let Some((kind, schema)) = body {
        operation["requestBody"] = json!({ "required": true, "content": { kind: { "schema": schema } } });
    }
    operation
}

fn parameter(name: &str, place: &str, required: bool, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": place, "required": required, "schema": schema, "description": description })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn payload() -> Value {
    json!({
        "description": "A text, or what is no text in base64.",
        "oneOf": [
            { "type": "null" },
            { "type": "string" },
            { "type": "object", "required": ["base64"], "properties": { "base64": { "type": "string" } } },
        ],
    })
}

fn node() -> Value {
    json!({ "type": "object", "properties": {
        "path": { "type": "string" }, "payload": payload(), "payload_version": number(),
        "child_list_version": number(), "child_list_length": number(), "created": number(), "modified": number(),
        "intermediate": { "type": "boolean" }, "keep_while": { "type": "object" }, "session": number(),
        "expires_ms": number(),
    } })
}

fn put_result() -> Value {
    json!({ "type": "object", "properties": {
        "revision": number(), "payload_version": number(), "created": number(), "is_new": { "type": "boolean" },
    } })
}

fn counted() -> Value {
    json!({ "type": "object", "properties": { "revision": number(), "count": number() } })
}

fn session_view() -> Value {
    json!({ "type": "object", "properties": { "session": number(), "ttl_ms": number(), "expires_ms": number() } })
}

fn error() -> Value {
    json!({ "type": "object", "required": ["error"], "properties": {
        "error": { "type": "string" }, "refusal": {}, "compacted": { "type": "object" },
    } })
}

fn transaction() -> Value {
    let condition = json!({
        "type": "object",
        "description": "One of exists, has_payload, payload_is, payload_version, child_list_version, child_list_length, \
            created, all, any, not, at.",
    });
    json!({ "type": "object", "properties": {
        "checks": { "type": "array", "items": { "type": "object", "required": ["path", "if"], "properties": {
            "path": { "type": "string" }, "if": condition,
        } } },
        "operations": { "type": "array", "items": {
            "type": "object", "description": "One of put, create, update, compare_and_swap, delete, get.",
        } },
    } })
}
