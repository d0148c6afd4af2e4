//! Collectives between devices: one replica's end of an NCCL communicator, with a stream of its own beside the one that
//! computes.
//!
//! Everything is enqueued; [`Communicator::wait`] waits, and looks meanwhile whether it waits in vain. What is exchanged:
//!
//! * **exact** (DESIGN section 3): slices of gradient sums go to their owners ([`Communicator::reduce`]), which add them
//!   in the order of the tree and update their slices of the weights; then those go to everybody
//!   ([`Communicator::gather`]);
//! * **nccl**: one all-reduce ([`Communicator::all_reduce`]), whose order of additions is the library's.

mod clock;
mod table;

use std::ffi::{CStr, c_char, c_int};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream};
use cudarc::nccl::sys::{ncclComm_t, ncclUniqueId};
use half::bf16;

pub use self::clock::ExchangeTimes;
use self::clock::{Spans, timed_event};
use self::table::{
    Config, FLOAT32, IN_PROGRESS, MAX, REMOTE_ERROR, SUCCESS, SUM, Status, Table, UINT8, UINT32,
};
use super::Cuda;
use super::backend::{enqueue_update, inside};
use super::dnn::DevicePtr;
use super::launch::Launcher;
use super::libraries::Libraries;
use super::memory::Buffer;
use super::staging::read;
use crate::backend::State;
use crate::error::{Error, Result};
use crate::plan::{Level, Levels, Plan, StepParams, UpdateRule, pieces};

/// What tells a communicator from all others: made by one replica, handed to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniqueId(ncclUniqueId);

impl UniqueId {
    /// A new one.
    pub fn new(libraries: &Libraries) -> Result<Self> {
        let table = Table::load(libraries)?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: it fills the id.
        let status = unsafe { (table.get_unique_id)(&raw mut id) };
        match status {
            SUCCESS => Ok(Self(id)),
            _ => Err(said(
                &table,
                std::ptr::null_mut(),
                "making a communicator's id",
                status,
            )),
        }
    }

    /// To be sent.
    pub fn to_bytes(self) -> [u8; 128] {
        self.0.internal.map(|byte| byte as u8)
    }

    /// As it was sent.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes: [u8; 128] = bytes
            .try_into()
            .map_err(|_| Error::invalid("the id of NCCL's communicator", "128 bytes", bytes.len()))?;
        Ok(Self(ncclUniqueId {
            internal: bytes.map(|byte| byte as c_char),
        }))
    }
}

/// A flat vector of elements of some bytes each.
#[derive(Clone, Copy)]
struct Vector {
    first: DevicePtr,
    element: usize,
}

impl Vector {
    fn at(self, index: usize) -> DevicePtr {
        self.first + (index * self.element) as u64
    }
}

/// Looks whether it makes sense to go on waiting: the error where a replica is gone.
pub type Alarm<'a> = &'a dyn Fn() -> Result<()>;

/// How long whoever watches the replicas has to say which one is gone, where the library knows first that one is.
const NAMING: Duration = Duration::from_secs(5);

/// One replica's end of a communicator.
pub struct Communicator {
    table: Table,
    comm: ncclComm_t,
    /// Launches on the stream that the communicator uses.
    launcher: Launcher,
    /// Recorded on the computing stream: what the communicator must wait for, in the end the whole backward pass.
    computed: CudaEvent,
    /// Recorded on its own stream: what the host waits for.
    done: CudaEvent,
    levels: Levels,
    /// Slices of other replicas, until they are added.
    received: Buffer,
    /// Not 0 where a replica has found something that is not finite.
    flag: Buffer,
    /// Reductions and gatherings of the step.
    reductions: Spans,
    gatherings: Spans,
}

// SAFETY: a communicator may be used by any thread, by one at a time.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Joins the communicator `id` as rank `rank` of `ranks`, and waits for all others to do so.
    pub fn join(
        cuda: &Cuda,
        libraries: &Libraries,
        id: UniqueId,
        [rank, ranks]: [usize; 2],
        levels: Levels,
        alarm: Alarm<'_>,
    ) -> Result<Self> {
        let table = Table::load(libraries)?;
        let compute = cuda.launcher();
        let context = compute.stream().context();
        compute.check("choosing the device", context.bind_to_thread())?;
        let stream = compute.check("creating a stream", context.new_stream())?;
        let launcher = compute.on(&stream);
        let computed = launcher.check("creating an event", timed_event(context))?;
        let done = launcher.check("creating an event", context.new_event(None))?;
        let received = Buffer::new(
            &stream,
            "slices of other replicas",
            levels.received() * size_of::<f32>(),
        )?;
        let flag = Buffer::zeroed(&stream, "a flag", size_of::<u32>())?;
        let mut comm: ncclComm_t = std::ptr::null_mut();
        let mut config = Config::non_blocking();
        // SAFETY: the device's context is bound; the configuration is as nccl.h has it.
        let status = unsafe {
            (table.comm_init_rank)(
                &raw mut comm,
                ranks as c_int,
                id.0,
                rank as c_int,
                &raw mut config,
            )
        };
        let communicator = Self {
            table,
            comm,
            launcher,
            computed,
            done,
            levels,
            received,
            flag,
            reductions: Spans::default(),
            gatherings: Spans::default(),
        };
        communicator.settled("joining the other replicas", status, alarm)?;
        Ok(communicator)
    }

    /// What is enqueued here from now on comes after what the computing stream has to do now.
    pub fn follow(&self, cuda: &Cuda) -> Result<()> {
        let compute = cuda.launcher();
        let recorded = self.computed.record(compute.stream());
        self.launcher.check("recording what was computed", recorded)?;
        let ordered = self.launcher.stream().wait(&self.computed);
        self.launcher.check("ordering a reduction", ordered)
    }

    /// Adds the replicas' sums of `elements` in the order of the tree: each has the total of what it owns in its own
    /// buffer, at its place; the rest of the range is undefined.
    pub fn reduce(&mut self, sum: &mut Buffer, elements: Range<usize>, alarm: Alarm<'_>) -> Result<()> {
        inside(sum, elements.clone())?;
        self.reductions.begin(&self.launcher)?;
        for piece in pieces(elements) {
            let levels = self.levels.clone();
            for (level, elements) in levels.descend(piece) {
                self.exchange(sum, level, &elements, alarm)?;
            }
        }
        self.reductions.end(&self.launcher)
    }

    /// One level of [`Communicator::reduce`].
    fn exchange(
        &mut self,
        sum: &Buffer,
        level: &Level,
        elements: &Range<usize>,
        alarm: Alarm<'_>,
    ) -> Result<()> {
        let own = level.own_slice(elements);
        // Where each peer's share of the own slice is; the own share stays where it is.
        let mut next = self.received.element(0);
        let shares: Vec<DevicePtr> = (0..level.peers.len())
            .map(|peer| {
                if peer == level.own {
                    return sum.element(own.start);
                }
                let place = next;
                next += (own.len() * size_of::<f32>()) as u64;
                place
            })
            .collect();
        self.grouped("exchanging slices of a gradient", alarm, |this| {
            for (peer, &share) in shares.iter().enumerate().filter(|(peer, _)| *peer != level.own) {
                let (rank, theirs) = (level.peers[peer], level.slice(elements, peer));
                this.send(
                    sum.element(theirs.start),
                    theirs.len() * size_of::<f32>(),
                    rank,
                    alarm,
                )?;
                this.receive(share, own.len() * size_of::<f32>(), rank, alarm)?;
            }
            Ok(())
        })?;
        self.add(&shares, level.own, own.len())?;
        Ok(())
    }

    /// Adds equally long `shares` pairwise, as the tree does; where the own one takes part, the sum is in its place. Gives
    /// the place of the sum.
    fn add(&self, shares: &[DevicePtr], own: usize, elements: usize) -> Result<DevicePtr> {
        if let [share] = shares {
            return Ok(*share);
        }
        let middle = shares.len() / 2;
        let left = self.add(&shares[..middle], own, elements)?;
        let right = self.add(&shares[middle..], own.wrapping_sub(middle), elements)?;
        // An addition of two numbers commutes to the bit.
        let [to, other] = if own >= middle && own < shares.len() {
            [right, left]
        } else {
            [left, right]
        };
        if elements > 0 {
            // SAFETY: shares are as long, in buffers of this replica.
            unsafe { self.launcher.tree_add(&[to, other], elements)? };
        }
        Ok(to)
    }

    /// Adds the replicas' sums of `elements` in an order of the library's; all have the total.
    pub fn all_reduce(&mut self, sum: &mut Buffer, elements: Range<usize>, alarm: Alarm<'_>) -> Result<()> {
        inside(sum, elements.clone())?;
        let at = sum.element(elements.start);
        self.reductions.begin(&self.launcher)?;
        self.reduce_in_place(at, elements.len(), [FLOAT32, SUM], alarm)?;
        self.reductions.end(&self.launcher)
    }

    /// Whether everything that the replicas own, each its part of `elements`, is finite. Waits.
    pub fn is_finite(&mut self, sum: &Buffer, elements: &[Range<usize>], alarm: Alarm<'_>) -> Result<bool> {
        let flag = self.flag.at(0);
        // SAFETY: the flag has 4 bytes; the ranges are checked.
        unsafe {
            self.launcher.clear(flag, size_of::<u32>())?;
            for own in self.owned(elements) {
                inside(sum, own.clone())?;
                self.launcher.is_finite(sum.element(own.start), own.len(), flag)?;
            }
        }
        self.reduce_in_place(flag, 1, [UINT32, MAX], alarm)?;
        self.wait("adding the gradients of all replicas", alarm)?;
        let mut found = [0u32];
        // SAFETY: the flag has 4 bytes.
        unsafe { read(&self.launcher, flag, &mut found)? };
        Ok(found[0] == 0)
    }

    /// What this replica owns of `elements`, range by range.
    pub fn owned(&self, elements: &[Range<usize>]) -> Vec<Range<usize>> {
        let pieces = elements.iter().cloned().flat_map(pieces);
        let owned = pieces.map(|piece| self.levels.owned(piece));
        owned.filter(|own| !own.is_empty()).collect()
    }

    /// Applies the update rule to what lies in `ranges`.
    pub fn update(
        &self,
        cuda: &Cuda,
        plan: &Plan,
        ranges: &[Range<usize>],
        (rule, params): (&UpdateRule, &StepParams),
        state: State<'_, Buffer>,
    ) -> Result<()> {
        let mut resources = cuda.lock();
        resources.send_params(params)?;
        for (parameter, array) in plan.parameters.iter().enumerate() {
            let array = array.range();
            for range in ranges {
                let part = array.start.max(range.start)..array.end.min(range.end);
                if part.is_empty() {
                    continue;
                }
                let state = State {
                    weights: &mut *state.weights,
                    momentum: &mut *state.momentum,
                    gradient: state.gradient,
                };
                enqueue_update(
                    &self.launcher,
                    &resources.block,
                    (plan, parameter, part),
                    rule,
                    state,
                )?;
            }
        }
        Ok(())
    }

    /// Sends what each replica owns of `elements` to all: afterwards everybody has all of it, but for a copy in bf16.
    pub fn gather(&mut self, buffer: &mut Buffer, elements: Range<usize>, alarm: Alarm<'_>) -> Result<()> {
        inside(buffer, elements.clone())?;
        let vector = Vector {
            first: buffer.element(0),
            element: size_of::<f32>(),
        };
        self.gather_vector(vector, elements, alarm)
    }

    /// [`Communicator::gather`] of the copy in bf16, where there is one: afterwards everybody has all of the copy. Else of
    /// the buffer itself.
    pub fn gather_factors(
        &mut self,
        weights: &mut Buffer,
        elements: Range<usize>,
        alarm: Alarm<'_>,
    ) -> Result<()> {
        inside(weights, elements.clone())?;
        let Some(first) = weights.bf16_copy(0) else {
            return self.gather(weights, elements, alarm);
        };
        let vector = Vector {
            first,
            element: size_of::<bf16>(),
        };
        self.gather_vector(vector, elements, alarm)
    }

    /// Whether [`Communicator::gather_factors`] leaves the buffer itself as it was.
    pub fn gathers_copy(weights: &Buffer) -> bool {
        weights.bf16_copy(0).is_some()
    }

    fn gather_vector(&mut self, vector: Vector, elements: Range<usize>, alarm: Alarm<'_>) -> Result<()> {
        self.gatherings.begin(&self.launcher)?;
        for piece in pieces(elements) {
            let levels = self.levels.clone();
            for (level, elements) in levels.descend(piece).into_iter().rev() {
                let own = level.own_slice(&elements);
                self.grouped("gathering slices", alarm, |this| {
                    for (peer, &rank) in level
                        .peers
                        .iter()
                        .enumerate()
                        .filter(|(peer, _)| *peer != level.own)
                    {
                        let theirs = level.slice(&elements, peer);
                        this.send(vector.at(own.start), own.len() * vector.element, rank, alarm)?;
                        this.receive(
                            vector.at(theirs.start),
                            theirs.len() * vector.element,
                            rank,
                            alarm,
                        )?;
                    }
                    Ok(())
                })?;
            }
        }
        self.gatherings.end(&self.launcher)
    }

    /// A step begins: forgets the times of the last one.
    pub fn begin(&mut self) {
        self.reductions.clear();
        self.gatherings.clear();
    }

    /// How long the exchange of the step took. Everything that was enqueued has been waited for.
    pub fn times(&self) -> Result<ExchangeTimes> {
        Ok(ExchangeTimes {
            reduce: self.reductions.seconds(&self.launcher)?,
            exposed: self.reductions.seconds_after(&self.launcher, &self.computed)?,
            gather: self.gatherings.seconds(&self.launcher)?,
        })
    }

    /// Renews the copy of weights in bf16, where there is one.
    pub fn renew_copy(&self, weights: &mut Buffer, elements: Range<usize>) -> Result<()> {
        inside(weights, elements.clone())?;
        let Some(copy) = weights.bf16_copy(elements.start) else {
            return Ok(());
        };
        // SAFETY: the range is checked, and the copy is as long.
        unsafe {
            self.launcher
                .fp32_to_bf16(weights.element(elements.start), copy, elements.len())
        }
    }

    /// Waits until everything that was enqueued here is done.
    pub fn wait(&mut self, doing: &str, alarm: Alarm<'_>) -> Result<()> {
        let recorded = self.done.record(self.launcher.stream());
        self.launcher.check("recording a reduction", recorded)?;
        let mut pause = Pause::default();
        loop {
            let complete = self.done.try_is_complete();
            if self.launcher.check(doing, complete)? {
                return Ok(());
            }
            self.check_peers(doing, alarm)?;
            pause.rest();
        }
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.launcher.stream()
    }

    fn reduce_in_place(
        &mut self,
        at: DevicePtr,
        count: usize,
        [kind, operation]: [c_int; 2],
        alarm: Alarm<'_>,
    ) -> Result<()> {
        let stream = self.stream().cu_stream();
        // SAFETY: the callers have checked the memory, which lives until the stream is waited for.
        let status = unsafe {
            (self.table.all_reduce)(
                at as *const _,
                at as *mut _,
                count,
                kind,
                operation,
                self.comm,
                stream,
            )
        };
        self.settled("an all-reduce", status, alarm)
    }

    /// Calls that begin together.
    fn grouped(&self, doing: &str, alarm: Alarm<'_>, calls: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        // SAFETY: no preconditions.
        let started = unsafe { (self.table.group_start)() };
        self.ok(doing, started, alarm)?;
        let called = calls(self);
        // SAFETY: it was started; a group that is not ended would swallow whatever is called next.
        let ended = unsafe { (self.table.group_end)() };
        called?;
        self.settled(doing, ended, alarm)
    }

    fn send(&self, from: DevicePtr, bytes: usize, to: usize, alarm: Alarm<'_>) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.stream().cu_stream();
        // SAFETY: the callers have checked the memory.
        let status =
            unsafe { (self.table.send)(from as *const _, bytes, UINT8, to as c_int, self.comm, stream) };
        self.ok("sending a slice", status, alarm)
    }

    fn receive(&self, to: DevicePtr, bytes: usize, from: usize, alarm: Alarm<'_>) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.stream().cu_stream();
        // SAFETY: the callers have checked the memory.
        let status =
            unsafe { (self.table.recv)(to as *mut _, bytes, UINT8, from as c_int, self.comm, stream) };
        self.ok("receiving a slice", status, alarm)
    }

    /// A call that may have returned before it was done: waits until it is.
    fn settled(&self, doing: &str, status: Status, alarm: Alarm<'_>) -> Result<()> {
        self.ok(doing, status, alarm)?;
        let mut pause = Pause::default();
        while self.check_peers(doing, alarm)? == IN_PROGRESS {
            pause.rest();
        }
        Ok(())
    }

    /// Fails where the communicator has failed or a replica is gone; else whether a call is still under way.
    fn check_peers(&self, doing: &str, alarm: Alarm<'_>) -> Result<Status> {
        let mut state = SUCCESS;
        // SAFETY: it writes the one number.
        let status = unsafe { (self.table.comm_async_error)(self.comm, &raw mut state) };
        // Whoever watches the replicas knows more than the library.
        alarm()?;
        self.ok(doing, status, alarm)?;
        self.ok(doing, state, alarm)?;
        Ok(state)
    }

    /// Fails where a call has failed. The library may know that a peer has ended before whoever watches the replicas has
    /// heard of it; they get a moment to name it.
    fn ok(&self, doing: &str, status: Status, alarm: Alarm<'_>) -> Result<()> {
        if let SUCCESS | IN_PROGRESS = status {
            return Ok(());
        }
        let said = said(&self.table, self.comm, doing, status);
        let since = Instant::now();
        while status == REMOTE_ERROR && since.elapsed() < NAMING {
            alarm()?;
            thread::sleep(Duration::from_millis(1));
        }
        Err(said)
    }
}

impl Communicator {
    /// Ends the communicator, with all other replicas.
    pub fn close(mut self, alarm: Alarm<'_>) -> Result<()> {
        self.wait("ending the reductions", alarm)?;
        // SAFETY: nothing is enqueued after this.
        let status = unsafe { (self.table.comm_finalize)(self.comm) };
        self.settled("leaving the other replicas", status, alarm)?;
        let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
        // SAFETY: it is finalised and not used again.
        let status = unsafe { (self.table.comm_destroy)(comm) };
        self.ok("ending a communicator", status, alarm)
    }
}

impl Drop for Communicator {
    /// One that was not closed: nobody waits for the others.
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        // Failures at this point have nobody to tell.
        let _ = self.stream().context().bind_to_thread();
        // SAFETY: the communicator is not used again.
        let _ = unsafe { (self.table.comm_abort)(self.comm) };
        let _ = self.stream().synchronize();
    }
}

/// A wait in small steps: the first are short, for what is nearly done.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    fn rest(&mut self) {
        match self.0 {
            0..100 => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(50)),
        }
        self.0 = self.0.saturating_add(1);
    }
}

/// What the library says of a failure.
fn said(table: &Table, comm: ncclComm_t, doing: &str, status: Status) -> Error {
    // SAFETY: both give a string of the library's that ends with 0.
    let [what, detail] = unsafe { [(table.error_string)(status), (table.last_error)(comm)] };
    let text = |string: *const c_char| {
        if string.is_null() {
            return String::new();
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
    };
    Error::Device {
        device: "NCCL".into(),
        reason: format!("{doing}: {} ({})", text(what), text(detail)),
    }
}
