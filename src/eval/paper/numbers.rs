//! What the paper printed (arXiv 1409.1556v6, tables 3 to 7).

use super::{PaperNet, PaperRow, Published, TestScales, TrainedAt};
use crate::eval::look::Protocol;
use crate::network::Config::{self, A, ALrn, B, C, D, E};
use TrainedAt::{High, Jittered, Low};

/// Top-1 and top-5 errors of one network.
pub(super) type Single = (Config, TrainedAt, f64, f64);

pub(super) const SINGLE_SCALE: [Single; 12] = [
    (A, Low, 29.6, 10.4),
    (ALrn, Low, 29.7, 10.5),
    (B, Low, 28.7, 9.9),
    (C, Low, 28.1, 9.4),
    (C, High, 28.1, 9.3),
    (C, Jittered, 27.3, 8.8),
    (D, Low, 27.0, 8.8),
    (D, High, 26.8, 8.7),
    (D, Jittered, 25.6, 8.1),
    (E, Low, 27.3, 9.0),
    (E, High, 26.9, 8.7),
    (E, Jittered, 25.5, 8.0),
];

pub(super) const MULTI_SCALE: [Single; 10] = [
    (B, Low, 28.2, 9.6),
    (C, Low, 27.7, 9.2),
    (C, High, 27.8, 9.2),
    (C, Jittered, 26.3, 8.2),
    (D, Low, 26.6, 8.6),
    (D, High, 26.5, 8.6),
    (D, Jittered, 24.8, 7.5),
    (E, Low, 26.9, 8.7),
    (E, High, 26.7, 8.6),
    (E, Jittered, 24.8, 7.5),
];

pub(super) const TABLE5: [(PaperNet, Protocol, Published); 6] = [
    (jittered(D), Protocol::Dense, validation(24.8, 7.5)),
    (jittered(D), Protocol::MultiCrop, validation(24.6, 7.5)),
    (jittered(D), Protocol::Both, validation(24.4, 7.2)),
    (jittered(E), Protocol::Dense, validation(24.8, 7.5)),
    (jittered(E), Protocol::MultiCrop, validation(24.6, 7.4)),
    (jittered(E), Protocol::Both, validation(24.4, 7.1)),
];

/// The seven networks of the ILSVRC submission.
const SUBMISSION: [PaperNet; 7] = [
    net(D, Low),
    net(D, High),
    net(D, Jittered),
    net(C, Low),
    net(C, High),
    net(E, Low),
    net(E, High),
];

const BEST_TWO: [PaperNet; 2] = [jittered(D), jittered(E)];

/// Other people's systems in table 7, as published. GoogLeNet has one number, which the text calls test.
const OTHERS: [(&str, Published); 11] = [
    ("GoogLeNet, 1 net", published(None, None, Some(7.9))),
    ("GoogLeNet, 7 nets", published(None, None, Some(6.7))),
    ("MSRA, 11 nets", published(None, None, Some(8.1))),
    ("MSRA, 1 net", published(Some(27.9), Some(9.1), Some(9.1))),
    ("Clarifai, several nets", published(None, None, Some(11.7))),
    ("Clarifai, 1 net", published(None, None, Some(12.5))),
    (
        "Zeiler & Fergus, 6 nets",
        published(Some(36.0), Some(14.7), Some(14.8)),
    ),
    (
        "Zeiler & Fergus, 1 net",
        published(Some(37.5), Some(16.0), Some(16.1)),
    ),
    ("OverFeat, 7 nets", published(Some(34.0), Some(13.2), Some(13.6))),
    ("OverFeat, 1 net", published(Some(35.7), Some(14.2), None)),
    (
        "Krizhevsky et al., 5 nets",
        published(Some(38.1), Some(16.4), Some(16.4)),
    ),
];

const fn net(config: Config, trained_at: TrainedAt) -> PaperNet {
    PaperNet { config, trained_at }
}

const fn jittered(config: Config) -> PaperNet {
    net(config, Jittered)
}

const fn published(top1: Option<f64>, top5: Option<f64>, test_top5: Option<f64>) -> Published {
    Published {
        top1,
        top5,
        test_top5,
    }
}

const fn validation(top1: f64, top5: f64) -> Published {
    published(Some(top1), Some(top5), None)
}

pub(super) fn single(scales: TestScales, rows: &[Single]) -> Vec<PaperRow> {
    let rows = rows.iter();
    rows.map(|&(config, trained_at, top1, top5)| {
        let nets = [net(config, trained_at)];
        PaperRow {
            scales,
            ..fused(&nets, Protocol::Dense, validation(top1, top5))
        }
    })
    .collect()
}

pub(super) fn fused(nets: &[PaperNet], protocol: Protocol, published: Published) -> PaperRow {
    let names: Vec<String> = nets.iter().map(ToString::to_string).collect();
    PaperRow {
        name: format!("{}, {protocol}", names.join(" + ")),
        nets: nets.to_vec(),
        protocol,
        scales: TestScales::Three,
        published,
    }
}

fn named(name: &str, row: PaperRow) -> PaperRow {
    PaperRow {
        name: name.into(),
        ..row
    }
}

fn submission() -> PaperRow {
    let numbers = published(Some(24.7), Some(7.5), Some(7.3));
    named(
        "ILSVRC submission, 7 nets, dense",
        fused(&SUBMISSION, Protocol::Dense, numbers),
    )
}

pub(super) fn table6() -> Vec<PaperRow> {
    let two =
        |protocol, top1, top5, test| fused(&BEST_TWO, protocol, published(Some(top1), Some(top5), test));
    vec![
        submission(),
        two(Protocol::Dense, 24.0, 7.1, Some(7.0)),
        two(Protocol::MultiCrop, 23.9, 7.2, None),
        two(Protocol::Both, 23.7, 6.8, Some(6.8)),
    ]
}

pub(super) fn table7() -> Vec<PaperRow> {
    let both = |nets: &[PaperNet], top1, top5, test| {
        fused(
            nets,
            Protocol::Both,
            published(Some(top1), Some(top5), Some(test)),
        )
    };
    let mut rows = vec![
        named("VGG, 2 nets, both", both(&BEST_TWO, 23.7, 6.8, 6.8)),
        named("VGG, 1 net, both", both(&[jittered(E)], 24.4, 7.1, 7.0)),
        named("VGG, ILSVRC submission, 7 nets, dense", submission()),
    ];
    let others = OTHERS
        .iter()
        .map(|(name, numbers)| named(name, fused(&[], Protocol::Center, *numbers)));
    rows.extend(others);
    let krizhevsky = published(Some(40.7), Some(18.2), None);
    rows.push(named(
        "Krizhevsky et al., 1 net",
        fused(&[], Protocol::Center, krizhevsky),
    ));
    rows
}
