//! The simulated machine: devices, streams, events, and the scheduler that decides what runs when.
//!
//! Nothing runs when it is enqueued. Streams are queues; when the host waits for something, the scheduler picks, under a
//! seed, one of the streams whose first operation can run, until what was waited for has happened. So every order that
//! the program allows can occur, and the clocks find the orders that it allows but did not mean.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use cudarc::driver::sys::CUresult;
use parking_lot::{Mutex, MutexGuard};

use crate::access::{Kind, Who, unordered};
use crate::clock::Clock;
use crate::faults::Faults;
use crate::graph::{Capture, Graph, Nodes};
use crate::host::HostMemory;
use crate::library::Work;
use crate::memory::{DeviceMemory, Stamp, Word};
use crate::module::Launch;
use crate::nccl::{Group, Nccl};
use crate::pool::{self, Pool};
use crate::rules::{Report, Reports, Rule};
use crate::simt;

/// The number of a stream, event, module ...: what the program holds as its handle.
pub(crate) type Handle = usize;

/// What an operation does.
#[derive(Clone)]
pub(crate) enum Action {
    Launch(Arc<Launch>),
    /// Between host and device, or within the device.
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    /// To the device, from bytes that were taken when the copy was asked for: pageable memory.
    CopyIn {
        to: u64,
        bytes: Arc<[u8]>,
    },
    Fill {
        to: u64,
        value: u8,
        bytes: u64,
    },
    /// A call of a library.
    Library(Arc<Work>),
    /// Sets the flag of an event.
    Record(Arc<AtomicBool>),
    /// Does nothing, once the flag is set.
    Wait(Arc<AtomicBool>),
    /// The calls of a group meet those of other ranks.
    Meet(Arc<Group>),
    /// Does nothing, once all calls of the group are done.
    Part(Arc<Group>),
    /// From here on memory that was asked for in stream order is there.
    Allocate,
    Free(u64),
    Graph(Arc<Graph>),
}

/// An operation in a stream's queue.
pub(crate) struct Operation {
    pub(crate) name: Arc<str>,
    pub(crate) action: Action,
    lane: u32,
    time: u32,
    clock: Arc<Clock>,
}

impl Operation {
    pub(crate) fn can_run(&self) -> bool {
        match &self.action {
            Action::Wait(done) => done.load(Ordering::Relaxed),
            Action::Part(group) => group.is_done(),
            _ => true,
        }
    }

    fn who(&self) -> Who {
        Who {
            name: Arc::clone(&self.name),
            stamp: Stamp {
                lane: self.lane,
                time: self.time,
                ..Stamp::default()
            },
            clock: Arc::clone(&self.clock),
            before: Nodes::default(),
        }
    }
}

/// A stream: a queue, and what is known to have happened before its next operation.
pub(crate) struct Stream {
    pub(crate) device: usize,
    pub(crate) lane: u32,
    pub(crate) queue: VecDeque<Operation>,
    pub(crate) clock: Clock,
    /// Operations enqueued and executed so far.
    pub(crate) enqueued: u64,
    pub(crate) executed: u64,
    /// The capture that it takes part in.
    pub(crate) capture: Option<Handle>,
}

/// An event: the last recording.
pub(crate) struct Event {
    pub(crate) device: usize,
    pub(crate) is_timed: bool,
    pub(crate) recorded: Option<(Arc<AtomicBool>, Clock)>,
    /// Node of a capture that it was recorded in.
    pub(crate) captured: Option<(Handle, Vec<usize>)>,
}

/// The machine, while one thread of the host has it.
pub(crate) type Locked = MutexGuard<'static, Sim>;

/// Everything.
pub(crate) struct Sim {
    pub(crate) devices: usize,
    pub(crate) memory: DeviceMemory,
    pub(crate) host_memory: HostMemory,
    pub(crate) streams: BTreeMap<Handle, Stream>,
    pub(crate) events: BTreeMap<Handle, Event>,
    pub(crate) modules: BTreeMap<Handle, usize>,
    pub(crate) functions: BTreeMap<Handle, &'static simt::Kernel>,
    pub(crate) captures: BTreeMap<Handle, Capture>,
    pub(crate) graphs: BTreeMap<Handle, Arc<Graph>>,
    pub(crate) nccl: Nccl,
    pub(crate) pools: BTreeMap<Handle, Pool>,
    pub(crate) faults: Faults,
    pub(crate) traffic: BTreeMap<String, Traffic>,
    /// How often each primary context is retained.
    pub(crate) retained: Vec<u32>,
    /// What the host knows to have happened.
    pub(crate) host: Clock,
    reports: Reports,
    /// Of each device, the error of a kernel that went wrong: every later call fails with it.
    broken: Vec<Option<CUresult>>,
    /// Counts what others may be waiting for.
    pub(crate) changes: u64,
    /// Threads of the host that have waited since the last change.
    pub(crate) waiting: usize,
    /// What random choices began with.
    pub(crate) seed: u64,
    random: u64,
    next_handle: Handle,
    next_lane: u32,
    pub(crate) next_launch: u32,
    /// What launches leave to each other.
    pub(crate) threads: simt::Threads,
}

/// Bytes that the launches of one kernel have moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Launches.
    pub launches: u64,
    /// Bytes read from device memory.
    pub read: u64,
    /// Bytes written to device memory.
    pub written: u64,
}

/// A number in the environment.
pub(crate) fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(otherwise)
}

impl Sim {
    pub(crate) fn new(devices: usize) -> Self {
        Self::with_seed(devices, variable("CUDASIM_SEED", 1))
    }

    pub(crate) fn with_seed(devices: usize, seed: u64) -> Self {
        Self {
            devices,
            memory: DeviceMemory::new(devices, variable("CUDASIM_MEMORY_MB", 16 << 10) << 20),
            host_memory: HostMemory::default(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            nccl: Nccl::default(),
            pools: (0..devices).map(pool::of_device).collect(),
            faults: Faults::from_environment(),
            traffic: BTreeMap::new(),
            retained: vec![0; devices],
            host: Clock::default(),
            reports: Reports::default(),
            broken: vec![None; devices],
            changes: 0,
            waiting: 0,
            seed,
            random: seed,
            next_handle: 0x1000,
            next_lane: HOST_LANE,
            next_launch: 0,
            threads: simt::Threads::default(),
        }
    }

    /// The machine of this process.
    pub(crate) fn lock() -> Locked {
        static SIM: LazyLock<Mutex<Sim>> = LazyLock::new(|| Mutex::new(Sim::new(crate::devices())));
        SIM.lock()
    }

    /// The error that a device's context ended with.
    pub(crate) fn broken(&self, device: Option<usize>) -> Option<CUresult> {
        self.broken.get(device?).copied().flatten()
    }

    /// Nothing is executed on this device any more. What waits for it must not hang.
    pub(crate) fn break_context(&mut self, device: usize, error: CUresult) {
        self.broken[device] = Some(error);
        self.release_groups(|comm| comm.device == device);
        self.changed();
    }

    /// Begins the random choices anew.
    pub(crate) fn begin_choices(&mut self, seed: u64) {
        self.seed = seed;
        self.random = seed;
    }

    /// A number below `n` (SplitMix64).
    pub(crate) fn draw(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.random;
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ x >> 31) % n.max(1) as u64) as usize
    }

    pub(crate) fn report(&mut self, rule: Rule, text: String) {
        self.reports.add(rule, text);
    }

    pub(crate) fn reports(&self) -> &[Report] {
        self.reports.all()
    }

    pub(crate) fn take_reports(&mut self) -> Vec<Report> {
        self.reports.take()
    }

    pub(crate) fn handle(&mut self) -> Handle {
        self.next_handle += 16;
        self.next_handle
    }

    pub(crate) fn lane(&mut self) -> u32 {
        self.next_lane += 1;
        self.next_lane
    }

    pub(crate) fn new_stream(&mut self, device: usize) -> Handle {
        let (handle, lane) = (self.handle(), self.lane());
        let stream = Stream {
            device,
            lane,
            queue: VecDeque::new(),
            clock: Clock::default(),
            enqueued: 0,
            executed: 0,
            capture: None,
        };
        self.streams.insert(handle, stream);
        handle
    }

    /// Puts an operation at the end of a stream, or into the graph that the stream is captured to. The stream exists.
    pub(crate) fn enqueue(&mut self, stream: Handle, name: &str, action: Action) {
        if self.streams[&stream].capture.is_some() {
            return self.capture(stream, name, action);
        }
        self.changed();
        let host = self.host.clone();
        let stream = self.streams.get_mut(&stream).expect("checked by the caller");
        stream.clock.join(&host);
        let time = stream.clock.tick(stream.lane);
        stream.enqueued += 1;
        stream.queue.push_back(Operation {
            name: name.into(),
            action,
            lane: stream.lane,
            time,
            clock: Arc::new(stream.clock.clone()),
        });
    }

    /// What is known before the next operation of a stream.
    pub(crate) fn clock_of_next(&mut self, stream: Handle) -> Clock {
        let host = self.host.clone();
        let stream = self.streams.get_mut(&stream).expect("checked by the caller");
        stream.clock.join(&host);
        stream.clock.clone()
    }

    /// What comes next on a stream comes after all that `clock` knows.
    pub(crate) fn learn(&mut self, stream: Handle, clock: &Clock) {
        self.streams
            .get_mut(&stream)
            .expect("checked by the caller")
            .clock
            .join(clock);
    }

    /// Whether everything that was enqueued on a stream has been executed.
    pub(crate) fn is_idle(&self, stream: Handle) -> bool {
        self.streams[&stream].queue.is_empty()
    }

    /// Executes one operation of one of the streams that can run, which the seed chooses; false when none can.
    pub(crate) fn step(&mut self) -> bool {
        self.hear();
        let can_run = |stream: &Stream| stream.queue.front().is_some_and(Operation::can_run);
        let runnable: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, stream)| can_run(stream))
            .map(|(handle, _)| *handle)
            .collect();
        if runnable.is_empty() {
            return false;
        }
        let chosen = runnable[self.draw(runnable.len())];
        let stream = self.streams.get_mut(&chosen).expect("chosen among them");
        let operation = stream.queue.pop_front().expect("it can run");
        stream.executed += 1;
        let device = stream.device;
        self.perform(device, &operation.action, &operation.who());
        self.changed();
        true
    }

    /// Whether the host knows that an operation is over.
    pub(crate) fn host_has_seen(&self, lane: u32, time: u32) -> bool {
        self.host.has_seen(lane, time)
    }

    /// What an operation that the host makes itself, waiting, is known as.
    pub(crate) fn as_host(&mut self, name: &str) -> Who {
        Who {
            name: name.into(),
            stamp: Stamp {
                lane: HOST_LANE,
                time: self.host.tick(HOST_LANE),
                ..Stamp::default()
            },
            clock: Arc::new(self.host.clone()),
            before: Nodes::default(),
        }
    }

    /// Does what an operation does, with every access checked.
    pub(crate) fn perform(&mut self, device: usize, action: &Action, who: &Who) {
        if self.broken[device].is_some() {
            // A context that is broken executes nothing more, but what waits must not hang.
            match action {
                Action::Record(done) => done.store(true, Ordering::Relaxed),
                Action::Meet(group) => group.finish(),
                _ => {}
            }
            return;
        }
        match action {
            Action::Launch(launch) => simt::launch(self, device, launch, who),
            Action::Copy { to, from, bytes } => self.copy(who, *to, *from, *bytes),
            Action::CopyIn { to, bytes } => {
                if self.access_range(who, *to, bytes.len() as u64, Kind::Write) {
                    // SAFETY: the range lies in a live allocation.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), *to as *mut u8, bytes.len()) };
                }
            }
            Action::Fill { to, value, bytes } => {
                if self.access_range(who, *to, *bytes, Kind::Write) {
                    // SAFETY: the range lies in a live allocation.
                    unsafe { std::ptr::write_bytes(*to as *mut u8, *value, *bytes as usize) };
                }
            }
            Action::Library(work) => self.call(device, who, work),
            Action::Record(done) => done.store(true, Ordering::Relaxed),
            Action::Wait(_) | Action::Part(_) | Action::Allocate => {}
            Action::Meet(group) => self.meet(group, who),
            Action::Free(address) => self.free(who, *address),
            Action::Graph(graph) => self.replay(device, graph, who),
        }
    }

    fn copy(&mut self, who: &Who, to: u64, from: u64, bytes: u64) {
        let checked = [(from, Kind::Read), (to, Kind::Write)]
            .into_iter()
            .all(|(address, kind)| {
                !self.memory.is_device(address) || self.access_range(who, address, bytes, kind)
            });
        if checked {
            // SAFETY: device ranges lie in live allocations; for the host's the program vouches, as for a real copy.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
        }
    }

    fn call(&mut self, device: usize, who: &Who, work: &Work) {
        let mut may_run = true;
        for access in &work.reads {
            may_run &= self.access_range(who, access.address, access.bytes as u64, Kind::Read);
        }
        for access in &work.writes {
            may_run &= self.access_range(who, access.address, access.bytes as u64, Kind::Write);
        }
        if may_run {
            (work.run)();
        } else {
            self.break_context(device, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
    }

    /// Frees memory that every use of which has happened before.
    pub(crate) fn free(&mut self, who: &Who, address: u64) {
        let Ok(allocation) = self.memory.holding(address, 1).cloned() else {
            return;
        };
        let in_use = |word: &Word| {
            let touches = [&word.write, &word.read];
            touches.iter().any(|touch| unordered(who, &touch.stamp).is_some())
        };
        if self.memory.any_touched(&allocation, in_use) {
            self.report(
                Rule::FreeInUse,
                format!(
                    "{} frees {} bytes that may still be in use",
                    who.name, allocation.bytes
                ),
            );
        }
        self.release(address);
    }

    /// Gives memory back, whoever may still use it.
    pub(crate) fn release(&mut self, address: u64) {
        self.count_pool_free(address);
        self.memory.free(address);
    }
}

/// The lane of what the host does itself.
const HOST_LANE: u32 = 1;
