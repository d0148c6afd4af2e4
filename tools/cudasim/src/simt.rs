//! Kernels as host code: threads of a block are fibers, and the compiler's hooks show every access.
//!
//! g++ compiles the `.cu` files with `-fsanitize=thread`, which puts a call before every access to memory; the functions
//! that it calls are here instead of in a sanitizer's run-time library. Blocks run one after the other; the threads of a
//! block run, in an order that the seed decides, from barrier to barrier.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use cudarc::driver::sys::CUresult;

use crate::access::{Kind, SEVERAL, Who};
use crate::fiber::{Body, Fiber};
use crate::memory::Stamp;
use crate::module::Launch;
use crate::rules::Rule;
use crate::sim::Sim;

/// A kernel of the host build; the twin of cudasim_kernel in simt.h.
#[repr(C)]
pub struct Kernel {
    name: *const c_char,
    call: unsafe extern "C" fn(*mut *mut c_void),
    count: c_uint,
    sizes: *const c_uint,
}

// SAFETY: constants of the kernels' object files.
unsafe impl Sync for Kernel {}

impl Kernel {
    pub(crate) fn name(&self) -> &str {
        // SAFETY: a string literal of simt.h's macro.
        unsafe { CStr::from_ptr(self.name) }
            .to_str()
            .unwrap_or("a kernel")
    }

    /// Bytes of each parameter.
    pub(crate) fn sizes(&self) -> &[c_uint] {
        // SAFETY: an array of `count` sizes and one more.
        unsafe { std::slice::from_raw_parts(self.sizes, self.count as usize) }
    }
}

/// Three extents; the twin of cudasim_dim3.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dim3 {
    pub(crate) x: c_uint,
    pub(crate) y: c_uint,
    pub(crate) z: c_uint,
}

impl Dim3 {
    const ZERO: Self = Self { x: 0, y: 0, z: 0 };

    pub(crate) fn count(self) -> u64 {
        u64::from(self.x) * u64::from(self.y) * u64::from(self.z)
    }

    /// The place of number `i`, x fastest.
    fn place(self, i: u64) -> Self {
        let (x, y) = (u64::from(self.x), u64::from(self.y));
        if i < x {
            return Self {
                x: i as c_uint,
                ..Self::ZERO
            };
        }
        Self {
            x: (i % x) as c_uint,
            y: (i / x % y) as c_uint,
            z: (i / x / y) as c_uint,
        }
    }
}

/// The twin of cudasim_place.
#[repr(C)]
pub struct Place {
    thread: Dim3,
    block: Dim3,
    block_size: Dim3,
    grid_size: Dim3,
}

/// Where the running thread is: read by kernels through threadIdx and its like.
#[unsafe(no_mangle)]
pub static mut cudasim_here: Place = Place {
    thread: Dim3::ZERO,
    block: Dim3::ZERO,
    block_size: Dim3::ZERO,
    grid_size: Dim3::ZERO,
};

/// Whether an address is in [`cudasim_here`].
fn is_place(address: u64) -> bool {
    address.wrapping_sub(&raw const cudasim_here as u64) < size_of::<Place>() as u64
}

/// Where a thread stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    Running,
    Barrier(*const c_char, c_int),
    Done,
    /// An access that may not be made: the thread ends here.
    Trapped,
}

/// A word of shared memory.
#[derive(Clone, Copy, Default)]
struct SharedWord {
    write: Stamp,
    read: Stamp,
}

/// What one launch leaves to the next: making it takes longer than running a small kernel.
#[derive(Default)]
pub(crate) struct Threads {
    fibers: Vec<Fiber>,
    /// Stamps of earlier launches among it, which say nothing about later ones.
    shared_words: Vec<SharedWord>,
}

impl Threads {
    /// As many fibers and words, or more.
    fn prepare(&mut self, threads: usize, words: usize) {
        // They may move now, so none of them may know where it was.
        self.fibers.iter_mut().for_each(Fiber::forget);
        let missing = threads.saturating_sub(self.fibers.len());
        self.fibers.extend((0..missing).map(|_| Fiber::new()));
        if self.shared_words.len() < words {
            self.shared_words.resize(words, SharedWord::default());
        }
    }
}

/// The block that is running.
struct Running {
    sim: *mut Sim,
    device: usize,
    who: Who,
    thread: usize,
    /// Of every thread of the block.
    stops: Vec<Stop>,
    threads: Threads,
    /// Thread-local storage of the kernels on this thread of the host, which is shared memory.
    shared: std::ops::Range<u64>,
    read: u64,
    written: u64,
}

/// What the hooks work on; null outside of kernels, which run where the simulator's lock is held.
static RUNNING: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());

/// Executes a launch.
pub(crate) fn launch(sim: &mut Sim, device: usize, launch: &Arc<Launch>, who: &Who) {
    sim.next_launch += 1;
    let number = sim.next_launch;
    let threads = launch.block.count() as usize;
    let shared = crate::module::shared_memory();
    let words = (shared.end - shared.start) as usize / 4;
    let mut arguments = launch.pointers();
    let body = Body {
        call: launch.kernel.call,
        arguments: arguments.as_mut_ptr(),
    };
    let mut kept = std::mem::take(&mut sim.threads);
    kept.prepare(threads, words);
    let mut running = Running {
        sim,
        device,
        who: who.clone(),
        thread: 0,
        stops: vec![Stop::Running; threads],
        threads: kept,
        shared,
        read: 0,
        written: 0,
    };
    for block in 0..launch.grid.count() {
        running.who.stamp.launch = number;
        running.who.stamp.block = block as u32;
        running.who.stamp.interval = 0;
        if !running.run_block(launch, body, block) {
            break;
        }
    }
    let (read, written) = (running.read, running.written);
    sim.threads = running.threads;
    let traffic = sim.traffic.entry(launch.kernel.name().to_string()).or_default();
    traffic.launches += 1;
    traffic.read += read;
    traffic.written += written;
}

impl Running {
    fn sim(&mut self) -> &mut Sim {
        // SAFETY: the caller of `launch` lends it for as long as the launch runs, and uses it no other way meanwhile.
        unsafe { &mut *self.sim }
    }

    /// Runs one block to its end; false when a thread was trapped.
    fn run_block(&mut self, launch: &Launch, body: Body, block: u64) -> bool {
        self.stops.fill(Stop::Running);
        let block_place = launch.grid.place(block);
        loop {
            let threads = self.stops.len();
            // Any order is allowed between barriers; rotations and reversals find what depends on it.
            let (first, backwards) = (self.sim().draw(threads), self.sim().draw(2) == 1);
            for i in 0..threads {
                let i = (i + first) % threads;
                let thread = if backwards { threads - 1 - i } else { i };
                if self.stops[thread] == Stop::Running {
                    self.resume(launch, body, block_place, thread);
                }
            }
            if self.stops.contains(&Stop::Trapped) {
                self.abandon();
                return false;
            }
            let waiting = self.stops.iter().filter(|stop| **stop != Stop::Done).count();
            if waiting == 0 {
                return true;
            }
            let site = self.stops.iter().find(|stop| **stop != Stop::Done).cloned();
            if waiting < threads || self.stops.iter().any(|stop| Some(stop) != site.as_ref()) {
                let name = Arc::clone(&self.who.name);
                let text =
                    format!("{name}: {waiting} of {threads} threads of block {block} wait at a barrier");
                self.sim().report(Rule::DivergentBarrier, text);
                let device = self.device;
                self.sim()
                    .break_context(device, CUresult::CUDA_ERROR_LAUNCH_FAILED);
                self.abandon();
                return false;
            }
            self.stops.fill(Stop::Running);
            self.who.stamp.interval += 1;
        }
    }

    /// Threads that will never end get new fibers.
    fn abandon(&mut self) {
        self.threads.fibers.iter_mut().for_each(Fiber::forget);
    }

    fn resume(&mut self, launch: &Launch, body: Body, block: Dim3, thread: usize) {
        self.thread = thread;
        self.who.stamp.thread = thread as u32;
        // SAFETY: kernels read it on this thread of the host only.
        unsafe {
            cudasim_here = Place {
                thread: launch.block.place(thread as u64),
                block,
                block_size: launch.block,
                grid_size: launch.grid,
            };
        }
        RUNNING.store(self, Ordering::Relaxed);
        // SAFETY: one pointer for each parameter, to as many bytes as it has.
        let ended = unsafe { self.threads.fibers[thread].resume(body) };
        RUNNING.store(std::ptr::null_mut(), Ordering::Relaxed);
        if ended {
            self.stops[thread] = Stop::Done;
        }
    }

    /// One access of the running thread; traps it where the access may not be made.
    fn access(&mut self, address: u64, bytes: u64, kind: Kind, is_aligned_type: bool) {
        // Of such types the size is a power of two.
        if is_aligned_type && address & (bytes - 1) != 0 {
            let text = format!("{}: {bytes} bytes at {address:#x}", self.who.name);
            self.sim().report(Rule::Misaligned, text);
            return self.trap(CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
        }
        if self.sim().memory.is_device(address) {
            if kind != Kind::Write {
                self.read += bytes;
            }
            if kind != Kind::Read {
                self.written += bytes;
            }
            // SAFETY: as in `sim`; the sim has no part of `self`.
            let sim = unsafe { &mut *self.sim };
            if !sim.access(&self.who, address, bytes, kind) {
                self.trap(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            }
        } else if self.shared.contains(&address) {
            self.access_shared(address, bytes, kind);
        } else if is_place(address) && kind == Kind::Read {
            // threadIdx and its like are registers.
        } else if !self.threads.fibers[self.thread].owns(address) && kind != Kind::Read {
            let text = format!("{} writes {bytes} bytes at {address:#x}", self.who.name);
            self.sim().report(Rule::HostAccess, text);
            self.trap(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        } else if !self.threads.fibers[self.thread].owns(address) && self.sim().host_memory.is_pinned(address)
        {
            // Constants of the program are host memory, too; what the program allocated is not theirs to read.
            let text = format!("{} reads {bytes} bytes at {address:#x}", self.who.name);
            self.sim().report(Rule::HostAccess, text);
        }
    }

    fn access_shared(&mut self, address: u64, bytes: u64, kind: Kind) {
        let me = self.who.stamp;
        let start = (address - self.shared.start) as usize / 4;
        let end = (address + bytes - self.shared.start).div_ceil(4) as usize;
        for at in start..end {
            let found = self.threads.shared_words[at];
            let here = |stamp: &Stamp| (stamp.launch, stamp.block) == (me.launch, me.block);
            let races =
                |stamp: &Stamp| here(stamp) && stamp.interval == me.interval && stamp.thread != me.thread;
            if kind == Kind::Read && !here(&found.write) {
                let text = format!(
                    "{} reads shared memory that the block has not written",
                    self.who.name
                );
                self.sim().report(Rule::UninitialisedShared, text);
            }
            if races(&found.write) || (kind != Kind::Read && races(&found.read)) {
                let text = format!("{}: two threads share memory without a barrier", self.who.name);
                self.sim().report(Rule::BlockRace, text);
            }
            let word = &mut self.threads.shared_words[at];
            if kind == Kind::Read {
                let several =
                    here(&found.read) && found.read.interval == me.interval && found.read.thread != me.thread;
                word.read = me;
                if several {
                    word.read.thread = SEVERAL;
                }
            } else {
                word.write = me;
            }
        }
    }

    /// Breaks the context, as a faulting kernel does, and never comes back to the thread.
    fn trap(&mut self, error: CUresult) {
        let device = self.device;
        self.sim().break_context(device, error);
        stop_here(Stop::Trapped);
    }
}

/// Leaves the running thread, to be resumed later or never.
fn stop_here(stop: Stop) {
    // SAFETY: it is set while a thread of a kernel runs, which is where this is called.
    let running = unsafe { &mut *RUNNING.load(Ordering::Relaxed) };
    running.stops[running.thread] = stop;
    // SAFETY: it is the fiber that is running.
    unsafe { running.threads.fibers[running.thread].leave() };
}

fn touch(address: *mut c_void, bytes: u64, kind: Kind, is_aligned_type: bool) {
    let running = RUNNING.load(Ordering::Relaxed);
    if running.is_null() {
        return;
    }
    // SAFETY: as above; the hook is the only user while the thread waits in it.
    unsafe { (*running).access(address as u64, bytes, kind, is_aligned_type) };
}

/// All threads of the block meet here.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_barrier(file: *const c_char, line: c_int) {
    stop_here(Stop::Barrier(file, line));
}

/// An atomic update is about to happen.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_atomic(address: *mut c_void, bytes: c_uint) {
    touch(address, u64::from(bytes), Kind::Atomic, true);
}

/// Defines the hooks that instrumented code calls before accesses of a size.
macro_rules! hooks {
    ($($name:ident $bytes:literal $kind:ident $aligned:literal;)+) => {
        $(
            #[doc = "Called by instrumented code."]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name(address: *mut c_void) {
                touch(address, $bytes, Kind::$kind, $aligned);
            }
        )+
    };
}

hooks! {
    __tsan_read1 1 Read true;
    __tsan_read2 2 Read true;
    __tsan_read4 4 Read true;
    __tsan_read8 8 Read true;
    __tsan_read16 16 Read true;
    __tsan_write1 1 Write true;
    __tsan_write2 2 Write true;
    __tsan_write4 4 Write true;
    __tsan_write8 8 Write true;
    __tsan_write16 16 Write true;
    __tsan_unaligned_read2 2 Read false;
    __tsan_unaligned_read4 4 Read false;
    __tsan_unaligned_read8 8 Read false;
    __tsan_unaligned_read16 16 Read false;
    __tsan_unaligned_write2 2 Write false;
    __tsan_unaligned_write4 4 Write false;
    __tsan_unaligned_write8 8 Write false;
    __tsan_unaligned_write16 16 Write false;
}

/// Called by instrumented code for accesses of other sizes.
#[unsafe(no_mangle)]
pub extern "C" fn __tsan_read_range(address: *mut c_void, bytes: usize) {
    touch(address, bytes as u64, Kind::Read, false);
}

/// Called by instrumented code for accesses of other sizes.
#[unsafe(no_mangle)]
pub extern "C" fn __tsan_write_range(address: *mut c_void, bytes: usize) {
    touch(address, bytes as u64, Kind::Write, false);
}

/// Called by instrumented code at the start of the program: nothing to set up.
#[unsafe(no_mangle)]
pub extern "C" fn __tsan_init() {}

/// Called by instrumented code when a function is entered: call stacks are not kept.
#[unsafe(no_mangle)]
pub extern "C" fn __tsan_func_entry(_caller: *mut c_void) {}

/// Called by instrumented code when a function is left.
#[unsafe(no_mangle)]
pub extern "C" fn __tsan_func_exit() {}
