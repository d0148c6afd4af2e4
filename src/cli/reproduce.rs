//! `verydeep reproduce`: the paper's tables with the networks at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::args::{ReproduceArgs, TableArg};
use super::compute::on_replicas;
use super::eval::validation_of;
use super::networks::{check_bad, name_bad, open_model, preprocess_of, resources};
use super::output::{note, print_json, say};
use crate::data::augment::ScaleRange;
use crate::data::loader::{Action, BadEvent};
use crate::data::shards::Dataset;
use crate::error::{Error, Result};
use crate::eval::{
    PaperNet, PaperRow, PaperTable, Resources, Rows, ScoreAverage, Tally, TrainedAt, check_classes,
    posteriors,
};
use crate::weights::Model;

/// A network at hand.
struct Given {
    net: PaperNet,
    path: PathBuf,
    /// S that it was trained on.
    trained: Trained,
    crop: usize,
    weights_sha256: String,
}

/// Smallest and largest S that a network was trained on.
#[derive(Clone, Copy)]
enum Trained {
    /// As its recipe says.
    Known((usize, usize)),
    /// As the paper did, or the default scale where the crop is not the paper's: the file does not say.
    Assumed((usize, usize)),
}

impl Trained {
    fn range(self) -> (usize, usize) {
        let (Self::Known(range) | Self::Assumed(range)) = self;
        range
    }
}

impl Given {
    /// The test scales in a row.
    fn scales(&self, row: &PaperRow) -> Vec<usize> {
        row.scales
            .of(self.net.trained_at, self.trained.range(), self.crop)
    }
}

pub(super) fn reproduce(args: &ReproduceArgs) -> Result<u8> {
    let resources = resources(args.batch, &args.compute)?;
    args.compute.dealt()?;
    let nets = names(&args.weights)?;
    let data = Arc::new(validation_of(&args.data, args.io)?);
    let given = nets.into_iter().zip(&args.weights);
    let given = given.map(|((net, path), said)| look_up(said, net, path, &data));
    let mut given: Vec<Given> = given.collect::<Result<_>>()?;
    warn_of_order(&given);
    let rows: Vec<PaperRow> = tables(args).flat_map(PaperTable::rows).collect();
    for Given { net, .. } in &given {
        if !rows.iter().any(|row| row.nets.contains(net)) {
            note(format_args!("--weights {net}: no row of these tables has it"));
        }
    }
    let tallies = compute(args, resources, &data, &rows, &mut given)?;
    let bad: BTreeMap<u64, &BadEvent> = tallies
        .iter()
        .flatten()
        .flat_map(|tally| &tally.bad)
        .map(|event| (event.position, event))
        .collect();
    name_bad(bad.values().copied());
    show_tables(args, &tallies, &given, &bad);
    let left_out = bad.values().filter(|event| event.action == Action::LeftOut);
    check_bad(args.max_bad, left_out.map(|event| &event.sample), data.len())?;
    Ok(0)
}

/// Prints all tables, for people or as one JSON object; one table's fields also stand in the object itself.
fn show_tables(
    args: &ReproduceArgs,
    tallies: &[Option<Tally>],
    given: &[Given],
    bad: &BTreeMap<u64, &BadEvent>,
) {
    let mut tallies = tallies.iter();
    let mut reports = Vec::new();
    for (i, table) in tables(args).enumerate() {
        let rows = table.rows();
        let tallies: Vec<_> = tallies.by_ref().take(rows.len()).map(Option::as_ref).collect();
        if args.json {
            reports.push(json_report(table, &rows, &tallies, given));
        } else {
            if i > 0 {
                say("");
            }
            show(table, &rows, &tallies, given);
        }
    }
    if !args.json {
        return;
    }
    let mut report = match reports.as_slice() {
        [one] => one.clone(),
        _ => json!({}),
    };
    report["tables"] = reports.into();
    report["bad"] = json!(bad.values().collect::<Vec<_>>());
    print_json(&report);
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

/// The networks of `NAME=FILE`, each once: fused with itself, a network would stand in the place of another.
fn names(said: &[String]) -> Result<Vec<(PaperNet, PathBuf)>> {
    let mut nets: Vec<(PaperNet, PathBuf)> = Vec::new();
    for said in said {
        let (name, path) = said
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--weights: expected NAME=FILE, found '{said}'")))?;
        let net: PaperNet = name.parse()?;
        if let Some((_, first)) = nets.iter().find(|(other, _)| *other == net) {
            return Err(Error::Usage(format!(
                "--weights: expected each NAME once, found {net} twice: {} and {path}",
                first.display()
            )));
        }
        nets.push((net, path.into()));
    }
    Ok(nets)
}

/// Opens a network once, to say early what is wrong with it, and to learn what it was trained on.
fn look_up(said: &str, net: PaperNet, path: PathBuf, data: &Dataset) -> Result<Given> {
    let what = format!("--weights {said}");
    let model = open_model(&path)?;
    if model.spec.config != net.config {
        return Err(Error::invalid(
            what,
            format_args!("weights of configuration {}", net.config),
            format_args!("weights of configuration {}", model.spec.config),
        ));
    }
    check_classes(&model, data.manifest().classes.len())?;
    let trained = trained_on(&model, net);
    if let Trained::Known((min, max)) = trained {
        let (expected, fits) = match net.trained_at {
            TrainedAt::Jittered => ("a range of S", min < max),
            TrainedAt::Low | TrainedAt::High => ("one S", min == max),
        };
        if !fits {
            let found = ScaleRange::new(min, max)?;
            note(format_args!(
                "{what}: warning: the paper's {net} is trained at {expected}, this run at --scale {found}: its test scales \
                 are those of the name"
            ));
        }
    }
    Ok(Given {
        net,
        trained,
        crop: model.spec.crop,
        weights_sha256: model.weights_sha256,
        path,
    })
}

/// S as the run's recipe says it; else the paper's for the paper's crop, and the default scale for another.
fn trained_on(model: &Model, net: PaperNet) -> Trained {
    let recipe = model.meta.as_ref().map(|meta| &meta.recipe["scale"]);
    let scale = recipe
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<ScaleRange>().ok());
    match scale {
        Some(scale) => Trained::Known((scale.min(), scale.max())),
        None if model.spec.crop == 224 => Trained::Assumed(net.trained_at.range()),
        None => Trained::Assumed((model.scale(), model.scale())),
    }
}

/// Warns of a configuration's run for S = 384 that was not trained at a larger S than the one for 256.
fn warn_of_order(given: &[Given]) {
    let known = |given: &Given| match given.trained {
        Trained::Known((min, _)) => Some(min),
        Trained::Assumed(_) => None,
    };
    for high in given
        .iter()
        .filter(|given| given.net.trained_at == TrainedAt::High)
    {
        let low = PaperNet {
            trained_at: TrainedAt::Low,
            ..high.net
        };
        let low = given.iter().find(|given| given.net == low).and_then(known);
        if let (Some(low), Some(at)) = (low, known(high))
            && at <= low
        {
            note(format_args!(
                "--weights {}={}: warning: trained at --scale {at}, the run for {}/256 at {low}: have they changed places?",
                high.net,
                high.path.display(),
                high.net.config
            ));
        }
    }
}

fn compute(
    args: &ReproduceArgs,
    resources: Resources,
    data: &Dataset,
    rows: &[PaperRow],
    given: &mut [Given],
) -> Result<Vec<Option<Tally>>> {
    let mut filled = Rows::new(rows, data, |row, net| {
        let given = given.iter().find(|given| given.net == net)?;
        Some(given.scales(row))
    });
    let components = filled.components();
    if components.is_empty() {
        note("none of the rows has all of its networks: only published numbers follow");
        return Ok(filled.tallies());
    }
    let device = args.compute.open_dealt()?;
    for given in given {
        let mine: Vec<_> = components
            .iter()
            .filter(|component| component.net == given.net)
            .collect();
        if mine.is_empty() {
            continue;
        }
        // What was passed over has been named; a run may have got on since.
        let model = Model::open(&given.path)?;
        check_classes(&model, data.manifest().classes.len())?;
        given.weights_sha256.clone_from(&model.weights_sha256);
        let preprocess = preprocess_of(&model, data);
        for component in mine {
            note(format_args!("{}: {}", component.net, component.look));
            let averages = on_replicas!(&device, backends => {
                posteriors(backends, &model, &preprocess, data, &component.look, resources)
                    .map_err(Error::of_network(&given.path))?
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

fn show(table: PaperTable, rows: &[PaperRow], tallies: &[Option<&Tally>], given: &[Given]) {
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
        let lacks = |net: &&PaperNet| !given.iter().any(|given| given.net == **net);
        let missing: Vec<String> = row.nets.iter().filter(lacks).map(ToString::to_string).collect();
        let missing = match missing.as_slice() {
            [] => String::new(),
            missing => format!("  no weights for {}", missing.join(", ")),
        };
        say(format_args!(
            "{:width$}  {}  {}  {:>5}{missing}",
            row.name,
            beside(tally.map(Tally::top1_error), published.top1),
            beside(tally.map(Tally::top5_error), published.top5),
            percent(published.test_top5),
        ));
    }
}

fn json_report(table: PaperTable, rows: &[PaperRow], tallies: &[Option<&Tally>], given: &[Given]) -> Value {
    let row = |(row, tally): (&PaperRow, &Option<&Tally>)| {
        let published = row.published;
        let mine = given.iter().filter(|given| row.nets.contains(&given.net));
        let scales = mine.map(|given| (given.net.to_string(), given.scales(row).into()));
        let ours = tally.map(|tally| {
            json!({ "top1_error": tally.top1_error(), "top5_error": tally.top5_error(), "n": tally.n })
        });
        let difference = |ours: fn(&Tally) -> f64, paper: Option<f64>| {
            tally.map(ours).zip(paper).map(|(ours, paper)| ours - paper)
        };
        json!({
            "name": row.name,
            "networks": row.nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "scales": scales.collect::<serde_json::Map<String, Value>>(),
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
