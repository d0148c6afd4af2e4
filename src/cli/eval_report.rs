//! What `verydeep eval` prints.

use serde_json::{Value, json};

use super::args::EvalArgs;
use super::eval::Outcome;
use super::networks::name_bad;
use super::output::{print_json, say};
use crate::data::shards::Split;
use crate::eval::{ScoreAverage, Tally};

/// Prints the result, for people or as JSON, and names on standard error what is wrong with images.
pub(super) fn report(args: &EvalArgs, outcome: &Outcome, images_per_sec: f64) {
    name_bad(&outcome.tally.bad);
    if args.json {
        print_json(&json_report(args, outcome, images_per_sec));
        return;
    }
    let tally = &outcome.tally;
    let looks: Vec<String> = outcome
        .members
        .iter()
        .map(|member| member.look.to_string())
        .collect();
    let speed = match args.weights.as_slice() {
        [] => String::new(),
        _ => format!(" at {images_per_sec:.1} images/s"),
    };
    say(format_args!(
        "{} {}, {}: {}, loss {:.4}, {} images{speed}",
        args.data.display(),
        Split::Validation.as_str(),
        looks.join(" + "),
        accuracies(tally),
        tally.mean_loss(),
        tally.n,
    ));
    for (average, tally) in ScoreAverage::ALL.iter().zip(outcome.averages.iter().flatten()) {
        say(format_args!(
            "  score maps, mean of {}: {}",
            average.name(),
            accuracies(tally)
        ));
    }
    for member in &outcome.members {
        say(format_args!("weights_sha256 {}", member.weights_sha256));
    }
}

fn accuracies(tally: &Tally) -> String {
    let (top1, top5) = (tally.top1_error(), tally.top5_error());
    format!(
        "top-1 {:.2} %, top-5 {:.2} % (errors {top1:.2} and {top5:.2})",
        100.0 - top1,
        100.0 - top5
    )
}

/// The fields of what was counted.
fn counted(tally: &Tally) -> Value {
    let (top1_error, top5_error) = (tally.top1_error(), tally.top5_error());
    json!({
        "top1": 100.0 - top1_error,
        "top5": 100.0 - top5_error,
        "top1_error": top1_error,
        "top5_error": top5_error,
        "loss": tally.mean_loss(),
        "n": tally.n,
    })
}

fn json_report(args: &EvalArgs, outcome: &Outcome, images_per_sec: f64) -> Value {
    let mut report = counted(&outcome.tally);
    let members = &outcome.members;
    let mut scales: Vec<usize> = Vec::new();
    for &scale in members.iter().flat_map(|member| &member.look.scales) {
        if !scales.contains(&scale) {
            scales.push(scale);
        }
    }
    let protocol = members[0].look.protocol;
    let alike = members.iter().all(|member| member.look.protocol == protocol);
    report["protocol"] = if alike {
        protocol.name().into()
    } else {
        "mixed".into()
    };
    report["scales"] = json!(scales);
    report["flip"] = json!(members.iter().all(|member| member.look.flip));
    report["bad"] = json!(outcome.tally.bad);
    report["images_per_sec"] = json!(images_per_sec);
    let hashes: Vec<&str> = members
        .iter()
        .map(|member| member.weights_sha256.as_str())
        .collect();
    report["weights_sha256"] = json!(hashes);
    if members.len() > 1 {
        report["networks"] = json!(members);
    }
    if let Some(averages) = &outcome.averages {
        report["score_average"] = args.look.score_average().name().into();
        for (average, tally) in ScoreAverage::ALL.iter().zip(averages) {
            report["averages"][average.name()] = counted(tally);
        }
    }
    report
}
