//! Whole micro-batches on the CPU: `cargo bench --bench step [-- FILTER]`. Throughput is images per second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use verydeep::backend::cpu::Cpu;
use verydeep::network::{Config, Spec};
use verydeep::plan::Mode;

mod workload;
use workload::Workload;

fn steps(criterion: &mut Criterion) {
    let small = Spec {
        width: 0.25,
        crop: 64,
        fc: 256,
        classes: 12,
        ..Spec::paper(Config::A)
    };
    let cases = [
        ("small A", small, vec![8, 32]),
        ("VGG-16", Spec::paper(Config::D), vec![1, 8]),
    ];
    for (name, spec, batches) in cases {
        let network = spec.build().expect("a valid network");
        for mode in [Mode::Training, Mode::Evaluation] {
            let mut group = criterion.benchmark_group(format!("{name} {mode:?}"));
            group.sample_size(10);
            for &batch in &batches {
                group.throughput(Throughput::Elements(batch as u64));
                let mut workload = Workload::new(
                    &network,
                    batch,
                    mode,
                    Cpu::new(workload::threads()).expect("threads"),
                );
                group.bench_function(format!("batch {batch}"), |bencher| {
                    bencher.iter(|| workload.walk())
                });
            }
        }
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
