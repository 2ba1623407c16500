//! The routes and their description. What they do is tested with real processes, in `tests/fleet.rs`.

use super::*;
use serde_json::Value;

#[test]
fn every_route_is_in_the_document_and_names_its_parameters() {
    let routes = routes();
    let document = openapi::document(&routes);
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let (of_tree, own): (Vec<_>, Vec<_>) = paths.iter().partition(|(path, _)| path.starts_with("/api/tree/"));
    let described: usize = own.iter().map(|(_, methods)| methods.as_object().unwrap().len()).sum();
    assert_eq!(described, routes.len(), "two routes of one name");
    assert!(of_tree.iter().any(|(path, _)| path.ends_with("/watch")), "the state tree is not described");
    for route in &routes {
        let operation = &paths[route.path][route.method];
        assert_eq!(operation["summary"], route.summary);
        let named = |name: &str| {
            let parameters = operation["parameters"].as_array().unwrap();
            parameters.iter().any(|parameter| parameter["name"] == name)
        };
        for part in route.path.split('/').filter(|part| part.starts_with('{')) {
            assert!(named(part.trim_matches(['{', '}'])), "{}: {part} is not described", route.path);
        }
        assert!(operation["responses"]["200"]["content"].get(route.answer).is_some());
    }
}

#[test]
fn what_changes_something_is_posted_and_what_does_not_is_not() {
    for route in routes() {
        let orders =
            ["start", "stop", "restart", "drain", "upgrade", "maintain", "release", "reload", "detach", "shutdown"];
        let is_order = orders.iter().any(|order| route.path.ends_with(&format!("/{order}")));
        assert_eq!(route.method == "post", is_order, "{}", route.path);
    }
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_only_what_there_is() {
    let page = include_str!("../../web/index.html");
    for part in page.split(['"', '\'']).filter(|part| part.starts_with("/web/")) {
        let name = part.trim_start_matches("/web/");
        assert!(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web").join(name).is_file(),
            "{name} is not there"
        );
    }
    for text in [
        page,
        include_str!("../../web/main.js"),
        include_str!("../../web/style.css"),
        include_str!("../../web/server.js"),
    ] {
        let foreign = text.split("http").skip(1).any(|rest| rest.starts_with("://") || rest.starts_with("s://"));
        assert!(!foreign, "something is loaded from elsewhere");
    }
    let _: Value = serde_json::to_value(openapi::document(&routes())).unwrap();
}
