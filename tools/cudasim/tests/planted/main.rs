//! Each rule with a program that breaks it, and programs that break none under many seeds.

/// Defines a test for each planted mistake: on a new machine with two devices, the body breaks one rule.
macro_rules! planted {
    ($($name:ident breaks $rule:ident: |$machine:ident, $stream:ident| $body:block)+) => {
        $(
            #[test]
            fn $name() {
                let $machine = Machine::new(2, 1);
                let $stream = $machine.stream();
                $body
                $machine.expect(Rule::$rule);
            }
        )+
    };
}

mod collectives;
mod correct;
mod driver;
mod machine;

use cudasim::Rule;

#[test]
fn every_rule_has_a_statement_and_a_source_of_its_own_name() {
    for (i, rule) in Rule::ALL.iter().enumerate() {
        assert!(Rule::ALL[..i].iter().all(|other| other.id() != rule.id()));
        assert!(rule.says().ends_with('.') && !rule.source().is_empty());
    }
}

#[test]
fn every_rule_is_broken_by_some_test() {
    let tests = [include_str!("driver.rs"), include_str!("collectives.rs")].concat();
    for rule in Rule::ALL {
        assert!(tests.contains(&format!(" breaks {rule:?}: ")), "{rule:?}");
    }
}
