//! The three counterexamples to changing one server at a time (hazard E1).

use crate::{folder, run};

const FILES: [&str; 3] = [
    "single_server_1.txt",
    "single_server_2.txt",
    "single_server_3.txt",
];

/// With joint configurations the scripts lose nothing, whatever the text says. The very same
/// scripts with plain ones commit two different entries at one index: so the check bites.
#[test]
fn e1_the_three_single_server_counterexamples_lose_nothing() {
    for name in FILES {
        let text = std::fs::read_to_string(folder().join(name)).expect("the script is there");
        let ran = run(name, &text).unwrap_or_else(|error| panic!("{error}"));
        let world = ran.interpreter.world.expect("it ran");
        let committed = world.nodes.iter().map(|node| {
            let up_to = node.disk.live.up_to(node.committed);
            up_to.unwrap_or_else(|| panic!("{name}: {} commits beyond its log", node.id.node))
        });
        let committed: Vec<_> = committed.collect();
        let longest = committed.iter().max_by_key(|log| log.len()).expect("nodes");
        assert!(
            longest.len() > 2,
            "{name}: the change is committed in the end"
        );
        for log in &committed {
            assert!(longest.starts_with(log), "{name}: {log:?} and {longest:?}");
        }
        let error = run(name, &without_joint(&text)).err();
        let error = error.unwrap_or_else(|| panic!("{name}: one at a time should go wrong"));
        assert!(error.contains("S6: 1 commits"), "{error}");
    }
}

/// `{1,2,3}->{1,2,4}` becomes `{1,2,4}`.
fn without_joint(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(arrow) = rest.find("}->{") {
        let old = rest[..arrow].rfind('{').expect("the old set begins");
        plain += &rest[..old];
        rest = &rest[arrow + "}->".len()..];
    }
    plain + rest
}
