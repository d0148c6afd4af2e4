//! Lifetimes to offsets: where every tensor of a micro-batch lies in the one arena.

use super::{DataGradient, Footprint, Lowering, Mode, Region, Regions, Step};

/// Which of a step's regions.
type Field = fn(&mut Regions) -> &mut Region;

/// A region that wants a place: alive from `birth` to `death`, both inclusive, in units of (step, pass).
struct Tenant {
    step: usize,
    field: Field,
    bytes: usize,
    birth: usize,
    death: usize,
}

/// Gives every step its regions and returns the size of the arena.
///
/// Time runs over the schedule: forward of step i at i, backward of step i at 2S - 1 - i. Two regions may overlap only
/// if they are never alive together. Placement is greedy by size, each at the lowest offset that is free for its whole
/// life (Pisarchyk and Lee 2020, "greedy by size").
pub(super) fn place(steps: &mut [Step], mode: Mode, lowering: &dyn Lowering) -> usize {
    let footprints: Vec<Footprint> = steps.iter().map(|step| lowering.footprint(step)).collect();
    let mut tenants = tenants(steps, &footprints, mode);
    tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.bytes)); // stable: ties stay in schedule order

    let mut placed: Vec<(usize, Tenant)> = Vec::with_capacity(tenants.len());
    let mut arena = 0;
    for tenant in tenants {
        let offset = lowest_free(&placed, &tenant);
        arena = arena.max(offset + tenant.bytes);
        *(tenant.field)(&mut steps[tenant.step].memory) = Region {
            offset,
            bytes: tenant.bytes,
        };
        placed.push((offset, tenant));
        placed.sort_by_key(|(offset, _)| *offset);
    }
    arena.next_multiple_of(Region::ALIGNMENT)
}

/// The lowest offset at which `tenant` meets nobody who is alive with it. `placed` is sorted by offset.
fn lowest_free(placed: &[(usize, Tenant)], tenant: &Tenant) -> usize {
    let mut offset = 0;
    for (start, other) in placed {
        let together = tenant.birth <= other.death && other.birth <= tenant.death;
        if together && offset + tenant.bytes > *start && *start + other.bytes > offset {
            offset = (*start + other.bytes).next_multiple_of(Region::ALIGNMENT);
        }
    }
    offset
}

fn tenants(steps: &[Step], footprints: &[Footprint], mode: Mode) -> Vec<Tenant> {
    let end = 2 * steps.len();
    let backward = |i: usize| end - 1 - i;
    let last = steps.len() - 1;
    let mut tenants = Vec::new();
    for (i, footprint) in footprints.iter().enumerate() {
        let mut add = |field: Field, bytes: usize, birth: usize, death: usize| {
            if bytes > 0 {
                tenants.push(Tenant {
                    step: i,
                    field,
                    bytes,
                    birth,
                    death,
                });
            }
        };
        add(|m| &mut m.forward_scratch, footprint.forward_scratch, i, i);
        let training = mode == Mode::Training;

        // The caller reads posteriors, losses and ranks after the walk.
        let mut value_death = if i == last { end } else { i + 1 };
        if training && i < last && footprints[i + 1].backward_reads_input {
            value_death = value_death.max(backward(i + 1));
        }
        if training && footprint.backward_reads_value {
            value_death = value_death.max(backward(i));
        }
        add(|m| &mut m.value, footprint.value, i, value_death);

        let saved_death = match (i == last, training) {
            (true, _) => end,
            (false, true) => backward(i),
            (false, false) => i,
        };
        add(|m| &mut m.saved, footprint.saved, i, saved_death);
        if training {
            if i < last && steps[i + 1].data_gradient != DataGradient::None {
                add(
                    |m| &mut m.gradient,
                    footprint.gradient,
                    backward(i + 1),
                    backward(i),
                );
            }
            if i > 0 {
                add(
                    |m| &mut m.backward_scratch,
                    footprint.backward_scratch,
                    backward(i),
                    backward(i),
                );
            }
        }
    }
    tenants
}
