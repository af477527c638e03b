//! Layouts: blocks, includes, and faults.

use serde_json::{Value, json};

use super::*;

fn layout(html: &str) -> Source {
    Source { subject: None, ..source(html, &Value::Null) }
}

/// Returns the compiled HTML.
fn flat(own: &Source, layouts: &[(&str, &str)]) -> Result<String, Vec<String>> {
    let layouts: Vec<(&str, Source)> = layouts.iter().map(|(name, html)| (*name, layout(html))).collect();
    compiled(own, &layouts).map(|compiled| compiled.html.unwrap_or_default()).map_err(shown)
}

#[test]
fn layout_field_fills_the_block_content() {
    let own = Source { layout: Some("base".into()), ..source("<p>{{ x }}</p>", &json!({"x": "1"})) };
    let base = "<h1>{% block title %}T{% endblock %}</h1>{% block content %}none{% endblock %}!";
    assert_eq!(flat(&own, &[("base", base)]).unwrap(), "<h1>T</h1><p>{{ x }}</p>!");
    let own = Source { html: Some("{% block title %}X{% endblock %}<p>y</p>".into()), ..own };
    let own = Source { variables: Vec::new(), ..own };
    assert_eq!(flat(&own, &[("base", base)]).unwrap(), "<h1>X</h1><p>y</p>!");
    assert!(flat(&own, &[("base", "no block")]).unwrap_err()[0].starts_with("/layout unknown_layout"));
}

#[test]
fn blocks_are_replaced_and_super_is_the_replaced_content() {
    let own = source(
        "{% extends \"mid\" %}{% set x = 1 %}{% macro m() %}M{% endmacro %}{# c #}\n{% block a %}[{{ super() }}{{ x }}{{ m() }}]{% endblock %}",
        &Value::Null,
    );
    let mid = "{% extends 'base' %}{% block a %}({{ super() }}){% endblock %}{% block b %}B{% endblock %}";
    let base = "<{% block a %}A{% endblock %}{% block b %}{% endblock %}{% block c %}C{% endblock %}>";
    assert_eq!(
        flat(&own, &[("mid", mid), ("base", base)]).unwrap(),
        "{% set x = 1 %}{% macro m() %}M{% endmacro %}<[(A){{ x }}{{ m() }}]BC>"
    );
}

#[test]
fn includes_are_inserted_with_their_own_layouts() {
    let own = source("{% include \"footer\" %}{% include 'gone' ignore missing %}", &Value::Null);
    let layouts =
        [("footer", "{% extends \"box\" %}{% block x %}f{% endblock %}"), ("box", "[{% block x %}{% endblock %}]")];
    assert_eq!(flat(&own, &layouts).unwrap(), "[f]");
}

#[test]
fn white_space_control_of_block_tags_is_kept() {
    let own = source("{% extends \"base\" %}{% block a -%}  x  {%- endblock %}", &Value::Null);
    let program = Program::new(&compiled(&own, &[("base", layout("<b> {%- block a %}{% endblock %} </b>"))]).unwrap());
    let program = program.unwrap();
    let rendered = program.render(&program.check(&Map::new()).unwrap()).unwrap();
    assert_eq!(rendered.html.unwrap(), "<b>x </b>");
}

#[test]
fn variables_of_layouts_are_declared() {
    let own = Source { layout: Some("base".into()), ..source("{{ x }}", &json!({"x": 1})) };
    let base = Source {
        variables: declared(&json!({"company": "c", "x": "s"})),
        ..layout("{{ company }}{% block content %}{% endblock %}")
    };
    let compiled = compiled(&own, &[("base", base)]).unwrap();
    let keys: Vec<(&str, VariableType)> =
        compiled.variables.iter().map(|variable| (variable.key.as_str(), variable.kind)).collect();
    assert_eq!(keys, [("x", VariableType::Number), ("company", VariableType::String)]);
}

#[test]
fn cycles_are_refused() {
    let cycle = |own: &str, layouts: &[(&str, &str)]| flat(&source(own, &Value::Null), layouts).unwrap_err()[0].clone();
    for (own, layouts) in [
        ("{% extends \"own\" %}", &[][..]),
        ("{% extends \"a\" %}", &[("a", "{% extends \"tpl_own\" %}")]),
        ("{% extends \"a\" %}", &[("a", "{% extends \"b\" %}"), ("b", "{% extends \"a\" %}")]),
        ("{% include \"a\" %}", &[("a", "x{% include \"a\" %}")]),
        (
            "{% extends \"a\" %}{% block b %}{% block a %}{{ super() }}{% endblock %}{% endblock %}",
            &[("a", "{% block a %}{% block b %}{% endblock %}{% endblock %}")],
        ),
    ] {
        let fault = cycle(own, layouts);
        assert!(fault.starts_with("/html layout_cycle line 1, column"), "{own}: {fault}");
    }
}

#[test]
fn depth_number_and_size_of_layouts_are_limited() {
    let names: Vec<String> = (0..20).map(|at| format!("l{at}")).collect();
    let chain: Vec<(&str, String)> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str(), format!("{{% extends \"l{}\" %}}", at + 1)))
        .collect();
    let chain: Vec<(&str, &str)> = chain.iter().map(|(name, html)| (*name, html.as_str())).collect();
    let faults = flat(&source("{% extends \"l0\" %}", &Value::Null), &chain).unwrap_err();
    assert!(faults[0].contains("too_many"), "{faults:?}");
    let all = names.iter().map(|name| format!("{{% include \"{name}\" %}}")).collect::<Vec<_>>().concat();
    let layouts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let faults = flat(&source(&all, &Value::Null), &layouts).unwrap_err();
    assert!(faults[0].contains("at most 16 layouts"), "{faults:?}");
    let big = "x".repeat(200_000);
    let own = source(&"{% include \"big\" %}".repeat(3), &Value::Null);
    let faults = flat(&own, &[("big", &big)]).unwrap_err();
    assert!(faults[0].contains("too_large"), "{faults:?}");
}

#[test]
fn faults_name_the_layout_and_the_position() {
    let own = source("\n{% include \"bad\" %}", &Value::Null);
    let faults = flat(&own, &[("bad", "ab\n{{ undeclared }}")]).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("/html undeclared_variable line 2, column 4 of the layout `bad`:"), "{faults:?}");
}

#[test]
fn invalid_use_of_layouts_is_a_fault() {
    for (own, part) in [
        ("{% extends \"base\" %}lost", "outside the blocks"),
        ("{% extends \"base\" %}{{ x }}", "outside the blocks"),
        ("{% extends base %}", "in quotes"),
        ("{% include x %}", "in quotes"),
        ("{% if a %}{% extends \"base\" %}{% endif %}{% extends \"base\" %}", "once"),
        ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "twice"),
        ("{% block a %}", "not closed"),
        ("{% endblock %}", "no open"),
        ("{{ super() }}", "needs a block"),
        ("{{ super()|upper }}", "must be alone"),
        ("{% import \"base\" as b %}", "not available"),
        ("{% extends \"gone\" %}", "no published template `gone`"),
    ] {
        let faults = flat(&source(own, &Value::Null), &[("base", "{% block a %}{% endblock %}")]).unwrap_err();
        assert!(faults.iter().any(|fault| fault.contains(part)), "{own}: {faults:?}");
    }
    let own = Source { layout: Some("base".into()), ..source("{% extends \"base\" %}", &Value::Null) };
    assert!(flat(&own, &[("base", "x")]).unwrap_err()[0].contains("must not use `extends`"));
    let own = Source { layout: Some("base".into()), format: Format::Mjml, ..source("<mjml/>", &Value::Null) };
    assert!(flat(&own, &[("base", "{% block content %}{% endblock %}")]).unwrap_err()[0].contains("another `format`"));
}

#[test]
fn css_of_the_layout_applies_to_the_content() {
    let own = Source { layout: Some("base".into()), ..source("<p class=a>{{ x }}</p>", &json!({"x": "1"})) };
    let base =
        "<html><head><style>.a { color: red }</style></head><body>{% block content %}{% endblock %}</body></html>";
    let html = flat(&own, &[("base", base)]).unwrap();
    assert!(html.contains("<p class=\"a\" style=\"color: red;\">{{ x }}</p>"), "{html}");
}
