//! Templates that try to use up the time, the memory or the stack of the process. Each gets a clear fault, and costs
//! less than 100 ms and 64 MiB in a release build:
//!
//! ```sh
//! cargo test --release --lib template::tests::hostile -- --ignored --nocapture --test-threads 1
//! ```

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::template::limits::MAX_VALUES;

/// A template that must be refused when it is compiled or rendered.
struct Hostile {
    what: &'static str,
    source: Source,
    values: Value,
    /// One of these codes is expected.
    codes: &'static [&'static str],
}

const EXPENSIVE: &[&str] = &["too_expensive", "too_large"];
const RENDER: &[&str] = &["render_failed"];
const SYNTAX: &[&str] = &["invalid_template", "too_long", "too_many", "too_large"];
const TOO_LARGE: &[&str] = &["too_large"];

fn jinja(what: &'static str, html: impl Into<String>, codes: &'static [&'static str]) -> Hostile {
    with(what, html, json!({}), codes)
}

fn with(what: &'static str, html: impl Into<String>, values: Value, codes: &'static [&'static str]) -> Hostile {
    // Without a plain text body, so that only the HTML is measured.
    let source = Source { text: Some(String::new()), ..source(&html.into(), &values) };
    Hostile { what, source, values, codes }
}

fn mjml(what: &'static str, html: impl Into<String>, codes: &'static [&'static str]) -> Hostile {
    let hostile = jinja(what, html, codes);
    Hostile { source: Source { format: Format::Mjml, ..hostile.source }, ..hostile }
}

fn page(style: &str, body: &str) -> String {
    format!("<html><head><style>{style}</style></head><body>{body}</body></html>")
}

fn table() -> Vec<Hostile> {
    let mut table = instructions();
    table.extend(values());
    table.extend(comparisons());
    table.extend(syntax());
    table.extend(markup());
    table
}

/// Loops, recursion and output.
fn instructions() -> Vec<Hostile> {
    vec![
        jinja("range of a billion", "{% for i in range(1000000000) %}{% endfor %}", EXPENSIVE),
        jinja(
            "range beyond integers",
            "{% for i in range(-9223372036854775807, 9223372036854775807) %}{% endfor %}",
            EXPENSIVE,
        ),
        jinja("range as list", "{{ range(0, 9999999999, 1)|list|length }}", EXPENSIVE),
        jinja(
            "nested loops",
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
            EXPENSIVE,
        ),
        jinja(
            "empty nested loops",
            "{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
            EXPENSIVE,
        ),
        jinja(
            "macro recursion",
            "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
            &["render_failed", "too_expensive"],
        ),
        jinja(
            "mutual macro recursion",
            "{% macro a() %}{{ b() }}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
            SYNTAX,
        ),
        jinja(
            "caller recursion",
            "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
            &["render_failed", "too_expensive"],
        ),
        jinja(
            "recursive loop",
            "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
            &["render_failed", "too_expensive"],
        ),
        jinja(
            "recursive loop with deep lists",
            format!(
                "{{% for x in [1] recursive %}}{{{{ loop({}x{}) }}}}{{% endfor %}}",
                "[".repeat(20),
                "]".repeat(20)
            ),
            &["render_failed", "too_expensive"],
        ),
        jinja(
            "output of a loop",
            "{% for i in range(9999) %}{% for j in range(9999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
            EXPENSIVE,
        ),
        jinja(
            "doubled text",
            format!("{{% set x = \"xxxxxxxx\" %}}{}{{{{ x }}}}", "{% set x = x ~ x %}".repeat(60)),
            EXPENSIVE,
        ),
        jinja(
            "doubled block",
            format!("{{% set x = \"xxxxxxxx\" %}}{}{{{{ x }}}}", "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60)),
            EXPENSIVE,
        ),
        jinja("multiplied text", "{{ \"x\" * 1000000000 }}", EXPENSIVE),
        jinja(
            "text multiplied by the largest integer",
            "{{ \"xy\" * 9223372036854775807 }}",
            &["too_expensive", "too_large", "render_failed"],
        ),
        jinja("multiplied list", "{{ [1] * 1000000000 }}", &["too_expensive", "too_large", "render_failed"]),
        jinja(
            "list multiplied twice",
            "{{ ([1] * 9223372036854775807 * 9223372036854775807)|length }}",
            &["too_expensive", "too_large", "render_failed"],
        ),
        jinja("wide format", "{{ \"%1000000000d\"|format(1) }}", &["too_expensive", "too_large", "render_failed"]),
        jinja(
            "precise format",
            "{{ \"%.1000000000f\"|format(1.5) }}",
            &["too_expensive", "too_large", "render_failed"],
        ),
        jinja("indent", "{{ \"x\"|indent(1000000000, true) }}", EXPENSIVE),
        jinja("indented JSON", "{{ [1]|tojson(1000000000) }}", &["render_failed", "too_expensive"]),
        jinja("power", "{{ 99999 ** 99999 }}", RENDER),
        jinja("batch", "{{ [1]|batch(1000000000, 0) }}", &["too_expensive", "too_large", "render_failed"]),
        jinja("slice", "{{ [1]|slice(1000000000, 0) }}", &["too_expensive", "too_large", "render_failed"]),
        jinja("replaced", "{% set x = \"a\" * 9999 %}{{ x|replace(\"a\", x)|replace(\"a\", x) }}", EXPENSIVE),
        jinja("joined", "{{ range(9999)|join(\"x\" * 9999) }}", EXPENSIVE),
        jinja("repeated rounding", "{% for i in range(9999) %}{% set x = 1.5e300|round(-1) %}{% endfor %}", EXPENSIVE),
    ]
}

/// Values that share parts, are deeply nested, or contain themselves.
fn values() -> Vec<Hostile> {
    let long = "x".repeat(MAX_VALUES - 100);
    vec![
        jinja(
            "shared lists",
            format!("{{% set a = [1] %}}{}{{{{ a }}}}", "{% set a = [a, a] %}".repeat(100)),
            EXPENSIVE,
        ),
        jinja(
            "shared lists as JSON",
            format!("{{% set a = [1] %}}{}{{{{ a|tojson }}}}", "{% set a = [a, a] %}".repeat(100)),
            EXPENSIVE,
        ),
        jinja(
            "shared maps",
            format!("{{% set a = {{}} %}}{}{{{{ a }}}}", "{% set a = {\"a\": a, \"b\": a} %}".repeat(100)),
            EXPENSIVE,
        ),
        jinja(
            "shared tuples",
            format!("{{% set a = (1,) %}}{}{{{{ a }}}}", "{% set a = (a, a) %}".repeat(100)),
            EXPENSIVE,
        ),
        jinja("added lists", format!("{{% set a = [1] %}}{}{{{{ a }}}}", "{% set a = a + a %}".repeat(100)), EXPENSIVE),
        jinja("deep lists", format!("{{% set a = [1] %}}{}{{{{ a }}}}", "{% set a = [a] %}".repeat(5_000)), EXPENSIVE),
        jinja(
            "deep batches",
            format!("{{% set a = [1] %}}{}{{{{ a }}}}", "{% set a = a|batch(1) %}".repeat(5_000)),
            EXPENSIVE,
        ),
        jinja(
            "deep maps",
            format!("{{% set a = 1 %}}{}{{{{ a }}}}", "{% set a = dict(a=a) %}".repeat(5_000)),
            EXPENSIVE,
        ),
        jinja(
            "deep slices",
            format!("{{% set a = [1] %}}{}{{{{ a }}}}", "{% set a = a[0:]|reverse %}".repeat(20_000)),
            EXPENSIVE,
        ),
        jinja(
            "list in a namespace",
            "{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
            RENDER,
        ),
        jinja("namespace in itself", "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}", RENDER),
        jinja("list in a new namespace", "{% set ns = namespace(x=[1]) %}", RENDER),
        with("repeated long text", "{% for i in range(9999) %}{{ x }}{% endfor %}", json!({"x": long}), EXPENSIVE),
        with("list of long texts", format!("{{{{ [{}]|join }}}}", "x,".repeat(400)), json!({"x": long}), EXPENSIVE),
        with("mapped long texts", "{{ ([none] * 9999)|map(\"default\", x)|list }}", json!({"x": long}), EXPENSIVE),
        with(
            "JSON of long lists",
            "{% for i in range(9999) %}{% set y = x|tojson %}{% endfor %}",
            json!({"x": vec![0; 9_999]}),
            EXPENSIVE,
        ),
    ]
}

/// Comparisons of values that are large.
fn comparisons() -> Vec<Hostile> {
    let deep = |leaf: &str| json!([[[vec![leaf; 20_000]]]]);
    let two = json!({"a": deep("x"), "b": deep("x")});
    let texts = json!({"a": "x".repeat(120_000), "b": "x".repeat(120_000)});
    let each = |inside: &str| {
        format!("{{% for i in range(9999) %}}{{% for j in range(9999) %}}{inside}{{% endfor %}}{{% endfor %}}")
    };
    vec![
        with("equal lists", each("{% if a == b %}{% endif %}"), two.clone(), EXPENSIVE),
        with("ordered lists", each("{% if a < b %}{% endif %}"), two.clone(), EXPENSIVE),
        with("chained comparison", each("{% if a == b == a %}{% endif %}"), two.clone(), EXPENSIVE),
        with("list in list", each("{% if a in [b] %}{% endif %}"), two.clone(), EXPENSIVE),
        with("equal by test", each("{% if a is eq(b) %}{% endif %}"), two.clone(), EXPENSIVE),
        with("selected equal lists", each("{% set x = [a]|select(\"eq\", b)|list %}"), two.clone(), EXPENSIVE),
        with("changed lists", each("{% if loop.changed(a) %}{% endif %}"), two.clone(), EXPENSIVE),
        with("lists as keys", each("{% set x = {a: 1}[b] %}"), two.clone(), EXPENSIVE),
        with("sorted lists", each("{% set x = [a, b, a, b]|sort %}"), two, EXPENSIVE),
        with("equal texts", each("{% if a == b %}{% endif %}"), texts.clone(), EXPENSIVE),
        with("text tests", each("{% if a is lower %}{% endif %}"), texts.clone(), EXPENSIVE),
        with("sliced texts", each("{% set x = a[1:2] %}"), texts.clone(), EXPENSIVE),
        with("sorted texts", each("{% set x = [a, b, a, b]|sort %}"), texts.clone(), EXPENSIVE),
        with("unique texts", each("{% set x = [a, b, a, b]|unique|list %}"), texts, EXPENSIVE),
    ]
}

/// Sources that would overflow the parser's stack.
fn syntax() -> Vec<Hostile> {
    vec![
        jinja("nested parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000)), SYNTAX),
        jinja("nested lists", format!("{{{{ {}{} }}}}", "[".repeat(400), "]".repeat(400)), SYNTAX),
        jinja("long sum", format!("{{{{ 1{} }}}}", "+1".repeat(100_000)), SYNTAX),
        jinja("long filter chain", format!("{{{{ 1{} }}}}", "|e".repeat(100_000)), SYNTAX),
        jinja("negations", format!("{{{{ {}1 }}}}", "not ".repeat(100_000)), SYNTAX),
        jinja("nested conditions", format!("{}{}", "{% if 1 %}".repeat(10_000), "{% endif %}".repeat(10_000)), SYNTAX),
        jinja("long elif chain", format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(30_000)), SYNTAX),
        jinja("nested blocks", format!("{{% extends \"a\" %}}{}", "{% block a %}".repeat(10_000)), SYNTAX),
        jinja("open comment", "{#".repeat(100_000), SYNTAX),
        jinja("open raw block", "{% raw %}".repeat(30_000), SYNTAX),
        jinja("large source", "x".repeat(600_000), TOO_LARGE),
    ]
}

/// HTML, CSS and MJML that multiply or nest.
fn markup() -> Vec<Hostile> {
    let declarations = (0..3_000).map(|at| format!("a{at}:b;")).collect::<Vec<_>>().concat();
    let body = |content: &str| {
        format!("<mjml><mj-body><mj-section><mj-column>{content}</mj-column></mj-section></mj-body></mjml>")
    };
    let class = format!(
        "<mjml><mj-head><mj-attributes><mj-class name=\"a\" color=\"{}\"/></mj-attributes></mj-head>",
        "x".repeat(50_000)
    );
    vec![
        jinja("deep HTML", page("a{b:c}", &"<div>".repeat(50_000)), TOO_LARGE),
        jinja("misnested HTML", page("a{b:c}", &"<b><div></b>".repeat(30_000)), TOO_LARGE),
        jinja(
            "repeated formatting",
            page(
                "a{b:c}",
                &format!(
                    "<p>{}{}",
                    (0..200).map(|at| format!("<b a={at}>")).collect::<Vec<_>>().concat(),
                    "<p>".repeat(100_000)
                ),
            ),
            TOO_LARGE,
        ),
        jinja("rules for all elements", page(&format!("* {{ {declarations} }}"), &"<p>".repeat(9_000)), TOO_LARGE),
        jinja("many selectors", page(&"p{b:c}".repeat(30_000), &"<p>".repeat(9_000)), TOO_LARGE),
        jinja("sibling selectors", page(&"p ~ p ~ p {b:c}".repeat(100), &"<p>".repeat(9_000)), TOO_LARGE),
        jinja(
            "nested selectors",
            page(&format!("{}a{} {{b:c}}", ":not(".repeat(1_000), ")".repeat(1_000)), "<p>"),
            TOO_LARGE,
        ),
        jinja("nested layers", page(&"@layer a {".repeat(5_000), "<p>"), TOO_LARGE),
        jinja("long declaration", page(&format!("p {{ a: {} }}", "x".repeat(10_000)), &"<p>".repeat(9_000)), TOO_LARGE),
        mjml("deep MJML", body(&"<div>".repeat(20_000)), &["invalid_mjml", "too_large"]),
        mjml("deep raw MJML", body(&format!("<mj-raw>{}", "<a>".repeat(20_000))), &["invalid_mjml", "too_large"]),
        mjml(
            "repeated attributes",
            format!("{class}{}", body(&"<mj-text mj-class=\"a\">x</mj-text>".repeat(1_000)).replace("<mjml>", "")),
            TOO_LARGE,
        ),
        mjml(
            "carousel",
            body(&format!("<mj-carousel>{}</mj-carousel>", "<mj-carousel-image src=\"x\"/>".repeat(3_000))),
            TOO_LARGE,
        ),
        mjml("mj-include", body("<mj-include path=\"x\"/>"), &["not_available"]),
    ]
}

/// Compiles and renders a hostile template. Returns the fault.
fn run(hostile: &Hostile) -> Option<Fault> {
    render(&hostile.source, &hostile.values).err().and_then(|faults| faults.into_iter().next())
}

#[test]
fn hostile_templates_are_refused_clearly() {
    let table = table();
    assert!(table.len() >= 20);
    let mut wrong = Vec::new();
    for hostile in &table {
        match run(hostile) {
            Some(fault) if hostile.codes.contains(&fault.code) && fault.message.len() < 600 => {}
            other => wrong.push(format!("{}: {other:?}", hostile.what)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hostile_variables_are_refused() {
    let program = Program::new(&compiled(&source("{{ x }}", &json!({"x": []})), &[]).unwrap()).unwrap();
    let deep = (0..120).fold(json!(1), |value, _| json!([value]));
    for values in [json!({"x": deep}), json!({"x": vec![0; MAX_VALUES]}), json!({"y": "x".repeat(MAX_VALUES), "x": []})]
    {
        let faults = program.check(&object(&values)).unwrap_err();
        assert_eq!(faults[0].code, "too_large");
    }
}

/// Returns the process's peak memory since the last call with `resets`, and its current memory, in KiB.
fn memory(resets: bool) -> (u64, u64) {
    if resets {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    (value("VmHWM:"), value("VmRSS:"))
}

#[test]
#[ignore = "measures time and memory: cargo test --release --lib hostile -- --ignored --nocapture --test-threads 1"]
fn hostile_templates_cost_little() {
    let mut wrong = Vec::new();
    for hostile in table() {
        let (_, before) = memory(true);
        let started = Instant::now();
        let fault = run(&hostile);
        let took = started.elapsed();
        let (peak, _) = memory(false);
        let mib = peak.saturating_sub(before) / 1024;
        println!(
            "{:36} {:7.1} ms {mib:4} MiB  {}",
            hostile.what,
            took.as_secs_f64() * 1e3,
            fault.map_or("", |fault| fault.code)
        );
        if took > Duration::from_millis(100) || mib >= 64 {
            wrong.push(hostile.what);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
#[ignore = "measures time: cargo test --release --lib hostile -- --ignored --nocapture --test-threads 1"]
fn ordinary_templates_render_in_microseconds() {
    let values =
        json!({"name": "Ann", "url": "https://x.test/?a=1", "rows": [{"n": "a", "p": 1.5}, {"n": "b", "p": 2}]});
    let body = "<p>Dear {{ name }},</p><table>{% for r in rows %}<tr><td>{{ r.n }}</td><td>{{ r.p }}</td></tr>{% endfor %}</table>\
                <a href=\"{{ url }}\">Open</a>";
    let own = source(&page("p { color: red } td { padding: 4px } a { color: blue }", body), &values);
    let program = Program::new(&compiled(&own, &[]).unwrap()).unwrap();
    let values = object(&values);
    let started = Instant::now();
    for _ in 0..10_000 {
        let checked = program.check(&values).unwrap();
        std::hint::black_box(program.render(&checked).unwrap());
    }
    println!("{:.1} µs per message", started.elapsed().as_secs_f64() * 1e6 / 10_000.0);
}
