//! Rules of the house that neither the compiler nor a linter holds: who may use whom, where `unsafe`
//! may be, how long files and functions get, and that documents name what is there.
//!
//! Each check is a function from files to findings; its own tests, beside it, show it a bad sample.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

use source::{Source, code_only, repository};

#[track_caller]
fn assert_none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn arrows_point_down_only() {
    assert_none(layers::problems(&repository()));
}

#[test]
fn files_and_functions_are_short() {
    assert_none(sizes::problems(&repository()));
}

#[test]
fn unsafe_is_in_one_file() {
    assert_none(words::unsafe_problems(&repository()));
}

#[test]
fn nothing_unfinished_or_banned_is_written() {
    assert_none(words::code_problems(&repository()));
}

#[test]
fn no_key_is_committed() {
    assert_none(words::secret_problems(&repository()));
}

#[test]
fn no_path_of_one_machine_is_named() {
    assert_none(words::path_problems(&repository()));
}

#[test]
fn documents_name_what_exists() {
    assert_none(links::problems(&repository()));
}

#[test]
fn every_hazard_test_is_in_the_table() {
    assert_none(links::unlisted_hazard_tests(&repository()));
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# l 'm' n '\\'' 'o: p br\"q\" r#fn 'ü' s";
    let kept: String = code_only(text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(kept, "a e i l n 'o: p b r#fn s");
    assert_eq!(code_only(text).len(), text.len());
}

#[test]
fn test_items_are_told_from_live_code() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c(); } }\nfn d() {}\n#[cfg(test)]\nuse e;\nfn f() {}\n";
    let live = Source::new("src/a.rs", text).live;
    let kept: Vec<&str> = live.split_whitespace().collect();
    assert_eq!(kept.join(" "), "fn a() {} fn d() {} fn f() {}");
}
