//! Each step of a small net and of VGG-16, forward and backward: `cargo bench --bench layers [-- FILTER]`.
//! Throughput is floating-point operations per second (of the direct computation) where a step multiplies.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use verydeep::backend::cpu::Cpu;
use verydeep::network::{Config, Spec};
use verydeep::plan::{DataGradient, Mode, Pass};

mod workload;
use workload::Workload;

fn layers(criterion: &mut Criterion) {
    let small = Spec {
        width: 0.25,
        crop: 64,
        fc: 256,
        classes: 12,
        ..Spec::paper(Config::A)
    };
    let cases = [("small A", small), ("VGG-16", Spec::paper(Config::D))];
    for (name, spec) in cases {
        let network = spec.build().expect("a valid network");
        let cpu = Cpu::new(workload::threads()).expect("threads");
        let mut workload = Workload::new(&network, 8, Mode::Training, cpu);
        workload.walk();
        for (step, pass) in workload.plan.schedule().collect::<Vec<_>>() {
            let description = workload.plan.steps[step].clone();
            let mut group = criterion.benchmark_group(format!("{name} batch 8 {pass:?}"));
            group.sample_size(10);
            let products = match (pass, description.data_gradient) {
                (Pass::Forward, _) | (Pass::Backward, DataGradient::None) => 1,
                (Pass::Backward, DataGradient::Plain | DataGradient::Masked) => 2,
            };
            if description.macs > 0 {
                group.throughput(Throughput::Elements(2 * products * description.macs));
            }
            let label = format!("{step:02} {}", description.name);
            group.bench_function(label, |bencher| bencher.iter(|| workload.run(step, pass)));
        }
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
