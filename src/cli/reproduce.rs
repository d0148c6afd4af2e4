//! `verydeep reproduce`: the paper's tables with the networks at hand.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::args::{ReproduceArgs, TableArg};
use super::compute::on_replicas;
use super::eval::{check_classes, open_model, preprocess_of, validation_of};
use super::output::{note, print_json, say};
use crate::data::augment::ScaleRange;
use crate::data::shards::Dataset;
use crate::error::{Error, Result};
use crate::eval::{PaperNet, PaperRow, PaperTable, Resources, Rows, ScoreAverage, Tally, posteriors};
use crate::weights::Model;

/// A network at hand.
struct Given {
    net: PaperNet,
    path: PathBuf,
    /// Smallest and largest S that it was trained on.
    range: (usize, usize),
    crop: usize,
    weights_sha256: String,
}

pub(super) fn reproduce(args: &ReproduceArgs) -> Result<u8> {
    args.compute.dealt()?;
    let data = Arc::new(validation_of(&args.data, args.io)?);
    let given: Vec<Given> = args
        .weights
        .iter()
        .map(|said| look_up(said))
        .collect::<Result<_>>()?;
    let rows: Vec<PaperRow> = tables(args).flat_map(PaperTable::rows).collect();
    let mut tallies = compute(args, &data, &rows, &given)?.into_iter();
    let mut reports = Vec::new();
    for (i, table) in tables(args).enumerate() {
        let rows = table.rows();
        let tallies: Vec<_> = tallies.by_ref().take(rows.len()).collect();
        if args.json {
            reports.push(json_report(table, &rows, &tallies, &given));
        } else {
            if i > 0 {
                say("");
            }
            show(table, &rows, &tallies);
        }
    }
    match reports.as_slice() {
        [] => {}
        [one] => print_json(one),
        several => print_json(&json!({ "tables": several })),
    }
    Ok(0)
}

fn tables(args: &ReproduceArgs) -> impl Iterator<Item = PaperTable> {
    args.tables.iter().map(|table| match table {
        TableArg::Table3 => PaperTable::Table3,
        TableArg::Table4 => PaperTable::Table4,
        TableArg::Table5 => PaperTable::Table5,
        TableArg::Table6 => PaperTable::Table6,
        TableArg::Table7 => PaperTable::Table7,
    })
}

/// `NAME=FILE`: opens it once, to say early what is wrong, and to learn what it was trained on.
fn look_up(said: &str) -> Result<Given> {
    let (name, path) = said
        .split_once('=')
        .ok_or_else(|| Error::Usage(format!("--weights: expected NAME=FILE, found '{said}'")))?;
    let net: PaperNet = name.parse()?;
    let path = PathBuf::from(path);
    let model = open_model(&path)?;
    if model.spec.config != net.config {
        return Err(Error::invalid(
            format_args!("--weights {said}"),
            format_args!("weights of configuration {}", net.config),
            format_args!("weights of configuration {}", model.spec.config),
        ));
    }
    Ok(Given {
        net,
        range: trained_range(&model, net),
        crop: model.spec.crop,
        weights_sha256: model.weights_sha256,
        path,
    })
}

/// S as the run's recipe says it; else the paper's for the paper's crop, and the default scale for another.
fn trained_range(model: &Model, net: PaperNet) -> (usize, usize) {
    let recipe = model.meta.as_ref().map(|meta| &meta.recipe["scale"]);
    let scale = recipe
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<ScaleRange>().ok());
    match scale {
        Some(scale) => (scale.min(), scale.max()),
        None if model.spec.crop == 224 => net.trained_at.range(),
        None => (model.scale(), model.scale()),
    }
}

fn compute(
    args: &ReproduceArgs,
    data: &Dataset,
    rows: &[PaperRow],
    given: &[Given],
) -> Result<Vec<Option<Tally>>> {
    let find = |net: PaperNet| given.iter().find(|given| given.net == net);
    let mut filled = Rows::new(rows, data, |row, net| {
        let given = find(net)?;
        Some(row.scales.of(net.trained_at, given.range, given.crop))
    });
    let components = filled.components();
    if components.is_empty() {
        note("none of the rows has all of its networks: only published numbers follow");
        return Ok(filled.tallies());
    }
    let device = args.compute.open_dealt()?;
    let resources = Resources {
        batch: args.batch,
        threads: args.compute.threads()?,
    };
    for given in given {
        let mine: Vec<_> = components
            .iter()
            .filter(|component| component.net == given.net)
            .collect();
        if mine.is_empty() {
            continue;
        }
        let model = open_model(&given.path)?;
        check_classes(data, &model)?;
        let preprocess = preprocess_of(&model, data);
        for component in mine {
            note(format_args!("{}: {}", component.net, component.look));
            let averages = on_replicas!(&device, backends => {
                posteriors(backends, &model, &preprocess, data, &component.look, resources)?
            });
            filled.add(component, &averages, ScoreAverage::Scores)?;
        }
    }
    Ok(filled.tallies())
}

/// A number with one decimal, or a dash.
fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.1}"))
}

/// Ours, the paper's, and the difference.
fn beside(ours: Option<f64>, paper: Option<f64>) -> String {
    let difference = ours.zip(paper).map(|(ours, paper)| ours - paper);
    format!(
        "{:>6} {:>6} {:>7}",
        percent(ours),
        percent(paper),
        difference.map_or("-".into(), |difference| format!("{difference:+.1}"))
    )
}

fn show(table: PaperTable, rows: &[PaperRow], tallies: &[Option<Tally>]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    say(format_args!(
        "{}: errors in percent on the validation split; ours, the paper's, difference",
        table.name()
    ));
    say(format_args!(
        "{:width$}  {:^21}  {:^21}  {:>5}",
        "", "top-1", "top-5", "test"
    ));
    for (row, tally) in rows.iter().zip(tallies) {
        let published = row.published;
        let missing = if tally.is_none() && !row.nets.is_empty() {
            "  no weights"
        } else {
            ""
        };
        say(format_args!(
            "{:width$}  {}  {}  {:>5}{missing}",
            row.name,
            beside(tally.as_ref().map(Tally::top1_error), published.top1),
            beside(tally.as_ref().map(Tally::top5_error), published.top5),
            percent(published.test_top5),
        ));
    }
}

fn json_report(table: PaperTable, rows: &[PaperRow], tallies: &[Option<Tally>], given: &[Given]) -> Value {
    let row = |(row, tally): (&PaperRow, &Option<Tally>)| {
        let published = row.published;
        let ours = tally.as_ref().map(|tally| {
            json!({ "top1_error": tally.top1_error(), "top5_error": tally.top5_error(), "n": tally.n })
        });
        let difference = |ours: fn(&Tally) -> f64, paper: Option<f64>| {
            tally
                .as_ref()
                .map(ours)
                .zip(paper)
                .map(|(ours, paper)| ours - paper)
        };
        json!({
            "name": row.name,
            "networks": row.nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "protocol": (!row.nets.is_empty()).then(|| row.protocol.name()),
            "ours": ours,
            "paper": {
                "top1_error": published.top1,
                "top5_error": published.top5,
                "test_top5_error": published.test_top5,
            },
            "difference": {
                "top1_error": difference(Tally::top1_error, published.top1),
                "top5_error": difference(Tally::top5_error, published.top5),
            },
        })
    };
    let weights = given
        .iter()
        .map(|given| (given.net.to_string(), given.weights_sha256.clone().into()));
    json!({
        "table": table.name(),
        "rows": rows.iter().zip(tallies).map(row).collect::<Vec<_>>(),
        "weights_sha256": weights.collect::<serde_json::Map<String, Value>>(),
    })
}
