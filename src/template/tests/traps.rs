//! Traps that the template engines of email services fall into.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::template::limits::MAX_SUBJECT;
use crate::template::{WarningCode, validate};

const STYLE: &str = "<style>td { color: red } a { color: blue }</style>";

#[test]
fn loop_over_table_rows_renders_inside_the_table() {
    let source = format!(
        "{STYLE}<table>{{% for r in rows %}}<tr><td>{{{{ r.a }}}}</td></tr>{{% else %}}<tr><td>none</td></tr>{{% endfor %}}</table>"
    );
    let values = json!({"rows": [{"a": 1}, {"a": "<"}]});
    let rendered = html(&source, &values).unwrap();
    let rows = "<tr><td style=\"color: red;\">1</td></tr><tr><td style=\"color: red;\">&lt;</td></tr>";
    assert!(rendered.contains(&format!("<table>{rows}</table>")) || rendered.contains(rows), "{rendered}");
    assert!(rendered.find("<table>").unwrap() < rendered.find("&lt;").unwrap(), "{rendered}");
}

#[test]
fn operators_in_conditions_and_quotes_in_href_survive() {
    let source = format!(
        "{STYLE}{{% if a < 3 and \"<b>\" != \"x\" %}}<a href=\"{{{{ u|default(\"https://x.test/?a=1&b=2\") }}}}\">l</a>{{% endif %}}"
    );
    let variables = vec![
        Variable { required: false, ..declared(&json!({"u": ""})).remove(0) },
        declared(&json!({"a": 1})).remove(0),
    ];
    let source = Source { variables, ..super::source(&source, &Value::Null) };
    let rendered = render(&source, &json!({"a": 1})).unwrap();
    let html = rendered.html.unwrap();
    assert!(html.contains("<a href=\"https://x.test/?a=1&amp;b=2\" style=\"color: blue;\">l</a>"), "{html}");
    assert_eq!(rendered.text.unwrap(), "l (https://x.test/?a=1&b=2)\n");
    let html = render(&source, &json!({"a": 1, "u": "https://y.test/\" onclick=\"x"})).unwrap().html.unwrap();
    assert!(html.contains("href=\"https://y.test/&quot; onclick=&quot;x\""), "{html}");
}

#[test]
fn values_are_escaped_in_html_only() {
    let values = json!({"x": "<b>&'\"\r\n", "from": "A & B"});
    let source = Source {
        subject: Some("{{ from }}".into()),
        from: Some("{{ from }} <a@b.test>".into()),
        text: Some("{{ x }}".into()),
        ..source("{{ x }}", &values)
    };
    let rendered = render(&source, &values).unwrap();
    assert_eq!(rendered.html.unwrap(), "&lt;b&gt;&amp;&#39;&quot;\r\n");
    assert_eq!(rendered.text.unwrap(), "<b>&'\"\r\n");
    assert_eq!(rendered.subject.unwrap(), "A & B");
    assert_eq!(rendered.from.unwrap(), "A & B <a@b.test>");
}

#[test]
fn control_characters_are_refused_after_rendering() {
    for control in ["\r\nBcc: x@y.test", "\n", "\t", "\u{7f}", "\u{85}"] {
        let values = json!({"x": control});
        for part in ["subject", "from", "reply_to"] {
            let mut source = source("x", &values);
            match part {
                "subject" => source.subject = Some("a{{ x }}".into()),
                "from" => source.from = Some("{{ x }} <a@b.test>".into()),
                _ => source.reply_to = vec!["a@b.test".into(), "{{ x }}".into()],
            }
            let faults = render(&source, &values).unwrap_err();
            assert_eq!(faults[0].code, "control_character", "{part} {control:?}");
            assert!(faults[0].pointer.is_empty() && faults[0].message.contains(part), "{:?}", faults[0]);
        }
    }
    let mut own = source("x", &Value::Null);
    own.subject = Some("{{ \"a\\nb\" }}".into());
    assert_eq!(render(&own, &Value::Null).unwrap_err()[0].code, "control_character");
    own.subject = Some("a\r\nBcc: x".into());
    assert_eq!(compiled(&own, &[]).unwrap_err()[0].code, "control_character");
    let faults = html("{{ \"\\u0000\" }}", &Value::Null).unwrap_err();
    assert_eq!(faults[0].code, "control_character");
}

#[test]
fn subject_and_bodies_are_limited() {
    let values = json!({"x": "é".repeat(MAX_SUBJECT)});
    let own = Source { subject: Some("{{ x }}".into()), ..source("x", &values) };
    assert_eq!(render(&own, &values).unwrap().subject.unwrap().chars().count(), MAX_SUBJECT);
    let own = Source { subject: Some("{{ x }}!".into()), ..own };
    assert_eq!(render(&own, &values).unwrap_err()[0].code, "too_long");
    let values = json!({"x": "x".repeat(200_000)});
    let faults = html(&"{{ x }}".repeat(11), &values).unwrap_err();
    assert_eq!(faults[0].code, "too_large", "{faults:?}");
}

#[test]
fn all_faults_of_all_parts_are_reported_with_positions() {
    let source = Source {
        subject: Some("{{ a }}".into()),
        text: Some("x\n{% if %}".into()),
        from: Some("{{ b|uper }}".into()),
        reply_to: vec!["{{ c".into()],
        ..source("<p>\n {{ d }}{{ e.f }}</p>", &Value::Null)
    };
    let found = shown(compiled(&source, &[]).unwrap_err());
    let starts = [
        "/subject undeclared_variable line 1, column 4: the variable `a`",
        "/from invalid_template line 1, column",
        "/from undeclared_variable line 1, column 4: the variable `b`",
        "/reply_to/0 invalid_template line 1",
        "/html undeclared_variable line 2, column 5: the variable `d`",
        "/html undeclared_variable line 2, column 12: the variable `e`",
        "/text invalid_template line 2",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found} / {start}");
    }
}

#[test]
fn template_without_bodies_is_a_fault() {
    let own = Source { html: None, ..source("", &Value::Null) };
    assert_eq!(compiled(&own, &[]).unwrap_err()[0].pointer, "/html");
    let own = Source { text: Some("x".into()), ..own };
    assert_eq!(render(&own, &Value::Null).unwrap().html, None);
    let own = Source { text: Some(String::new()), ..source("x", &Value::Null) };
    let compiled = compiled(&own, &[]).unwrap();
    assert_eq!((compiled.text, compiled.warnings[0].code), (None, WarningCode::MissingPart));
}

#[test]
fn raw_blocks_and_comments_survive_everything() {
    let own = format!("{STYLE}<a>{{% raw %}}{{{{ x }}}}{{%{{% endraw %}}</a>{{# {{{{ y }}}} #}}<td>{{{{ x }}}}</td>");
    let values = json!({"x": 1});
    let rendered = html(&own, &values).unwrap();
    assert!(rendered.contains("<a style=\"color: blue;\">{{ x }}{%</a>"), "{rendered}");
    let own = Source { subject: Some("{% raw %}{{ x }}{% endraw %}".into()), ..source("x", &Value::Null) };
    assert_eq!(render(&own, &Value::Null).unwrap().subject.unwrap(), "{{ x }}");
}

#[test]
fn optional_variables_may_be_left_out() {
    let own = "{{ name|default(\"you\") }}{% if name is defined %}!{% endif %}{{ name }}";
    let variables = vec![Variable { required: false, ..declared(&json!({"name": ""})).remove(0) }];
    let own = Source { variables, ..source(own, &Value::Null) };
    assert_eq!(render(&own, &json!({})).unwrap().html.unwrap(), "you");
    assert_eq!(render(&own, &json!({"name": "x"})).unwrap().html.unwrap(), "x!x");
}

#[test]
fn missing_attribute_fails_and_names_the_tag() {
    let faults = html("<p>{{ o.a }}</p>{{ o.b }}", &json!({"o": {"a": 1}})).unwrap_err();
    assert_eq!(faults[0].code, "render_failed");
    assert!(faults[0].message.starts_with("`html`: `{{ o.b }}`: "), "{}", faults[0].message);
}

#[test]
fn vars_syntax_has_every_part() {
    let values = json!({"NAME": "<Ann>", "N": 3, "OK": true});
    let own = Source {
        syntax: Syntax::Vars,
        subject: Some("Hi {{{NAME}}}".into()),
        ..source(&format!("{STYLE}<table><tr><td>{{{{{{NAME}}}}}} {{{{N}}}} {{{{ OK }}}}</table>"), &values)
    };
    let rendered = render(&own, &values).unwrap();
    assert!(rendered.html.unwrap().contains("<td style=\"color: red;\">&lt;Ann&gt; 3 true</td>"));
    assert_eq!((rendered.subject.unwrap().as_str(), rendered.text.unwrap().as_str()), ("Hi <Ann>", "<Ann> 3 true\n"));
    let faults = shown(compiled(&Source { html: Some("{{X}}\n{{#if NAME}}".into()), ..own.clone() }, &[]).unwrap_err());
    assert!(faults[0].starts_with("/html invalid_template line 2, column 1"), "{faults:?}");
    let faults = shown(compiled(&Source { html: Some("a{{X}}".into()), ..own }, &[]).unwrap_err());
    assert!(faults[0].starts_with("/html undeclared_variable line 1, column 2"), "{faults:?}");
}

#[test]
fn mjml_is_compiled_with_its_tags() {
    let values = json!({"rows": [{"n": "<1>", "u": "https://x.test/?a&b"}], "big": true});
    let own = "<mjml><mj-head><mj-title>{{ rows|length }}</mj-title><mj-style inline=\"inline\">.x { color: red }</mj-style></mj-head>\
               <mj-body>{% for r in rows %}<mj-section><mj-column><mj-text css-class=\"x\">{{ r.n }}</mj-text>\
               <mj-button href=\"{{ r.u }}\">Go</mj-button></mj-column></mj-section>{% endfor %}\
               {% if big and 1 < 2 %}<mj-section><mj-column><mj-text>Big</mj-text></mj-column></mj-section>{% endif %}</mj-body></mjml>";
    let own = Source { format: Format::Mjml, ..source(own, &values) };
    let rendered = render(&own, &values).unwrap();
    let html = rendered.html.unwrap();
    for part in ["<title>1</title>", "&lt;1&gt;", "href=\"https://x.test/?a&amp;b\"", "Big", "style=\"color: red;"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert_eq!(rendered.text.unwrap(), "<1>\nGo (https://x.test/?a&b)\n\nBig\n".replace("\n\nBig", "\nBig"));
    let broken = Source { html: Some("<mjml><mj-body><mj-oops></mj-body></mjml>".into()), ..own };
    assert!(compiled(&broken, &[]).is_err());
}

#[test]
fn compiled_templates_are_json() {
    let values = json!({"x": "1"});
    let compiled = compiled(&source("{{ x }}", &values), &[]).unwrap();
    let json = serde_json::to_value(&compiled).unwrap();
    assert_eq!(serde_json::from_value::<Compiled>(json).unwrap(), compiled);
}

#[test]
fn validation_suggests_variables_and_lists_unescaped_output() {
    let own = Source {
        variables: Vec::new(),
        ..source("{% for r in order.rows %}{{ r.price|round }}\n{{ r.note|safe }}{% endfor %}", &Value::Null)
    };
    let own = Source { subject: Some("{{ name }}".into()), ..own };
    let report = validate(&own, &Layouts::default(), &Map::new());
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert_eq!(
        Value::Object(report.suggested_variables.clone()),
        json!({"name": "name_value", "order": {"rows": [{"note": "note_value", "price": 1}]}})
    );
    assert_eq!(report.suggested_declarations.len(), 2);
    assert_eq!((report.unescaped[0].line, report.unescaped.len()), (2, 1));
    let program = Program::new(&report.compiled.unwrap()).unwrap();
    let rendered = program.render(&program.check(&report.suggested_variables).unwrap()).unwrap();
    assert_eq!(rendered.html.unwrap(), "1\nnote_value");
    let own = Source { variables: declared(&json!({"other": 1})), ..own };
    let report = validate(&own, &Layouts::default(), &Map::new());
    assert!(report.compiled.is_none() && report.faults.len() == 2, "{:?}", report.faults);
}

#[test]
fn unknown_and_unused_variables_are_warnings() {
    let values = json!({"x": 1});
    let own = Source { variables: declared(&json!({"x": 1, "y": 1})), ..source("{{ x }}", &values) };
    let compiled = compiled(&own, &[]).unwrap();
    assert_eq!(compiled.warnings[0].code, WarningCode::UnusedVariable);
    assert_eq!(compiled.warnings[0].pointer, "/variables/1");
    let program = Program::new(&compiled).unwrap();
    let checked = program.check(&object(&json!({"x": 1, "y": 2, "a/b~": 3}))).unwrap();
    assert_eq!((checked.warnings.len(), checked.warnings[0].pointer.as_str()), (1, "/variables/a~1b~0"));
}

#[test]
fn simple_templates_are_cheap_and_verified_without_rendering() {
    let values = json!({"name": "x", "rows": []});
    let program = |html: &str| Program::new(&compiled(&source(html, &values), &[]).unwrap()).unwrap();
    assert!(program("<p>{{ name|title }}</p>").is_cheap());
    assert!(!program("{% for r in rows %}{% endfor %}").is_cheap());
    let program = program("{{ name }}");
    let checked = program.check(&object(&json!({"name": "x".repeat(200_000), "rows": []}))).unwrap();
    assert!(program.verify(&checked).is_ok());
}

#[test]
fn only_what_takes_little_work_is_rendered_quickly() {
    let values = json!({"rows": [1]});
    let template = "{% for r in rows %}{% for s in rows %}{{ s }} {% endfor %}{% endfor %}";
    let program = Program::new(&compiled(&source(template, &values), &[]).unwrap()).unwrap();
    let rendered = |count: usize| {
        let checked = program.check(&object(&json!({"rows": vec![1; count]}))).unwrap();
        assert!(program.render(&checked).is_ok());
        program.render_quickly(&checked).map(|rendered| rendered.size)
    };
    assert!(rendered(10).is_some_and(|size| size >= 200));
    assert_eq!(rendered(80), None);
}

#[test]
fn cache_is_bounded_by_bytes() {
    use crate::domain::id::TemplateId;
    let program = || Program::new(&compiled(&source("x", &Value::Null), &[]).unwrap()).unwrap();
    let size = program().bytes() as u64;
    let cache = crate::template::ProgramCache::new(size * 20);
    let id = |at: u128| TemplateId(uuid::Uuid::from_u128(at));
    for at in 0..100 {
        cache.insert(id(at), 1, program());
    }
    let kept = (0..100).filter(|at| cache.get(id(*at), 1).is_some()).count();
    assert!((1..=20).contains(&kept), "{kept}");
    let last = (0..100).rev().find(|at| cache.get(id(*at), 1).is_some()).unwrap();
    cache.remove(id(last), 1);
    assert!(cache.get(id(last), 1).is_none());
    let small = crate::template::ProgramCache::new(1);
    small.insert(id(1), 1, program());
    assert!(small.get(id(1), 1).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Inlining CSS changes neither the printed values nor their positions.
    #[test]
    fn css_does_not_change_what_is_printed(texts in proptest::collection::vec("[a-z<>&\"' ]{0,10}", 3)) {
        let values = json!({"a": texts[0], "b": texts[1], "rows": [{"c": texts[2]}]});
        let body = "<p title=\"{{ a }}\" class=x>{{ b }}</p><table><tbody>{% for r in rows %}<tr><td>{{ r.c }}</td></tr>{% endfor %}</tbody></table>";
        let page = |style: &str| format!("<html><head>{style}</head><body>{body}</body></html>");
        let plain = html(&page(""), &values).unwrap();
        let styled = html(&page("<style>p { x: y } td { x: z }</style>"), &values).unwrap();
        let unstyled = styled.replace(" style=\"x: y;\"", "").replace(" style=\"x: z;\"", "");
        prop_assert_eq!(unstyled, plain.replace("class=x", "class=\"x\"").replace("<p title=\"", "<p class=\"x\" title=\"").replace("\" class=\"x\">", "\">"));
    }

    /// No value adds markup or a header.
    #[test]
    fn values_add_no_markup(value in ".{0,60}") {
        let values = json!({"x": value});
        let own = Source { subject: Some("{{ x }}".into()), ..source("<p a='{{ x }}' b=\"{{ x }}\">{{ x }}</p>", &values) };
        match render(&own, &values) {
            Ok(rendered) => {
                let html = rendered.html.unwrap();
                prop_assert_eq!(html.matches('<').count(), 2);
                prop_assert_eq!(html.matches(['\'', '"']).count(), 4);
                prop_assert!(!rendered.subject.unwrap().contains(char::is_control));
            }
            Err(faults) => prop_assert!(faults.iter().all(|fault| fault.code == "control_character")),
        }
    }
}
