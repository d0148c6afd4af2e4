//! Bytes on the wire, per device and per node, against the formula.

use std::fs;
use std::path::PathBuf;

use super::launcher::start;
use super::machine::BYTES;

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("cudasim-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The number after a name in a report, for each of its devices.
fn numbers(report: &str, name: &str) -> Vec<u64> {
    let mark = format!("\"{name}\": ");
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    report
        .split(&mark)
        .skip(1)
        .map(|rest| digits(rest).parse().unwrap())
        .collect()
}

#[test]
fn a_reduction_by_slices_sends_what_the_formula_says() {
    let folder = folder("wire");
    // Two nodes of two ranks each.
    let job = start("exact", &[1, 1, 2], |process| {
        let node = if process < 2 { "0" } else { "1" };
        vec![
            ("CUDASIM_WIRE", folder.display().to_string()),
            ("CUDASIM_NODE", node.into()),
        ]
    });
    assert_eq!(job.end(&[]).reports, [""; 0]);
    let reports: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(reports.len(), 3);
    let of = |name: &str| -> Vec<u64> { reports.iter().flat_map(|report| numbers(report, name)).collect() };
    // Each round every rank sends its part to three others, and passes three parts on.
    let (rounds, part) = (3, BYTES as u64 / 4);
    let whole = rounds * 2 * 3 * part;
    assert_eq!(of("process").len(), 3);
    for name in ["sent", "received"] {
        let mut all = of(name);
        all.sort_unstable();
        let (calls, devices): (Vec<u64>, Vec<u64>) = all.into_iter().partition(|bytes| *bytes < whole);
        assert_eq!(devices, [whole; 4], "{name}");
        assert!(
            name == "received" || calls.iter().sum::<u64>() == 4 * whole,
            "{calls:?}"
        );
    }
    // Two of three peers of each rank are in the other node; the ring leaves a node once.
    let mut off_node = of("sent_off_node");
    off_node.sort_unstable();
    let transfers = rounds * 2 * part;
    let gathered = rounds * 3 * part;
    let expected = [transfers, transfers, transfers + gathered, transfers + gathered];
    assert_eq!(off_node, expected);
    fs::remove_dir_all(&folder).unwrap();
}
